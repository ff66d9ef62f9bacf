#include "scratch.h"

#include <cstdlib>
#include <new>

namespace penstock {
namespace {

class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(memory_); }

  uint8_t* at_least(size_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      size_ = (bytes + 4095) / 4096 * 4096;
      memory_ = static_cast<uint8_t*>(std::aligned_alloc(64, size_));
      if (memory_ == nullptr) throw std::bad_alloc();
    }
    return memory_;
  }

 private:
  uint8_t* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

uint8_t* scratch(size_t bytes) {
  static Buffer* buffer = new Buffer;  // never freed: a detached thread may still read at exit
  return buffer->at_least(bytes);
}

uint8_t* thread_scratch(size_t bytes) {
  thread_local Buffer buffer;
  return buffer.at_least(bytes);
}

}  // namespace penstock
