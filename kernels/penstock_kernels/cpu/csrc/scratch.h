// Working memory that grows to what was needed and stays.
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock {

// The activations of the running matmul: shared by all threads, valid until the next call; only the caller's thread asks.
uint8_t* scratch(size_t bytes);

// The calling thread's own memory, valid until its next call.
uint8_t* thread_scratch(size_t bytes);

}  // namespace penstock
