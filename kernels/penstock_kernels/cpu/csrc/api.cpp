// The C ABI that library.py loads. One call runs at a time; Python's own lock is released meanwhile.
#include <chrono>
#include <mutex>
#include <vector>

#include "activations.h"
#include "attention.h"
#include "decoder.h"
#include "linear.h"
#include "pool.h"
#include "scratch.h"
#include "weight.h"

namespace {

std::mutex& library_lock() {
  static std::mutex* lock = new std::mutex;
  return *lock;
}

using Guard = std::lock_guard<std::mutex>;
using penstock::kLanes;

// Reads all bytes, 256 at a time: what a matmul does to a weight at best.
int64_t sum_bytes(const uint8_t* data, int64_t bytes) {
  penstock::I32 sums[4];
  for (auto& sum : sums) sum = penstock::splat_i32(0);
  for (int64_t at = 0; at + 256 <= bytes; at += 256) {
    for (int i = 0; i < 4; ++i) {
      penstock::I32 part;
      std::memcpy(&part, data + at + i * 64, sizeof part);
      sums[i] = penstock::add_i32(sums[i], part);
    }
  }
  return reduce_add_i32(add_i32(add_i32(sums[0], sums[1]), add_i32(sums[2], sums[3])));
}

}  // namespace

#define PENSTOCK_API extern "C" __attribute__((visibility("default")))

// What the build puts in: names the sources and flags that a library came from, and can be found in the file's bytes.
PENSTOCK_API const char* penstock_digest() { return PENSTOCK_DIGEST; }

// The variant that suits this processor best, asked of any variant that runs.
PENSTOCK_API const char* penstock_best_variant() {
#if defined(__x86_64__)
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
  if (has_avx512) return __builtin_cpu_supports("avx512bf16") ? "avx512_bf16" : "avx512_vnni";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "baseline";
}

PENSTOCK_API void penstock_set_num_threads(int count) {
  const Guard guard(library_lock());
  penstock::set_num_threads(count);
}

PENSTOCK_API int64_t penstock_packed_bytes(const penstock::Weight* weight) {
  return static_cast<int64_t>(weight->bytes());
}

PENSTOCK_API void penstock_pack(const penstock::Weight* weight, const penstock::PackSource* source) {
  const Guard guard(library_lock());
  pack_weight(*weight, *source, const_cast<uint8_t*>(weight->data));
}

PENSTOCK_API void penstock_linear(const penstock::Weight* weight, const float* x, int64_t rows, const float* norm,
                                  float eps, const float* residual, float* out) {
  const Guard guard(library_lock());
  penstock::linear({x, weight, norm, residual, out, rows, eps});
}

// -1 if all ids name rows of the weight, else the index of the first that does not; then nothing is written.
PENSTOCK_API int64_t penstock_embedding(const penstock::Weight* weight, const int64_t* ids, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= weight->rows) return i;
  }
  const Guard guard(library_lock());
  constexpr int64_t kIdsPerItem = 16;
  penstock::parallel_for(static_cast<int>((count + kIdsPerItem - 1) / kIdsPerItem), [&](int item) {
    for (int64_t i = item * kIdsPerItem; i < std::min(count, (item + 1) * kIdsPerItem); ++i) {
      expand_row(*weight, ids[i], out + i * weight->columns);
    }
  });
  return -1;
}

PENSTOCK_API void penstock_rms_norm(const float* x, const float* norm, float eps, int64_t rows, int columns, float* out) {
  const Guard guard(library_lock());
  constexpr int64_t kNormRowsPerItem = 16;
  penstock::parallel_for(static_cast<int>((rows + kNormRowsPerItem - 1) / kNormRowsPerItem), [&](int item) {
    for (int64_t i = item * kNormRowsPerItem; i < std::min(rows, (item + 1) * kNormRowsPerItem); ++i) {
      penstock::rms_norm_row(x + i * columns, norm, eps, columns, out + i * columns);
    }
  });
}

PENSTOCK_API void penstock_attention(const penstock::AttentionCall* call, const penstock::Step* step,
                                     const penstock::Cache* cache) {
  const Guard guard(library_lock());
  penstock::attention(*call, *step, *cache);
}

PENSTOCK_API void penstock_decoder(const penstock::DecoderCall* call, const penstock::Step* step,
                                   const penstock::Cache* cache) {
  const Guard guard(library_lock());
  penstock::decode(*call, *step, *cache);
}

// Bytes per second at which all threads together read `data` once.
PENSTOCK_API double penstock_read_bandwidth(const uint8_t* data, int64_t bytes) {
  const Guard guard(library_lock());
  constexpr int64_t kItemBytes = 1 << 20;
  const int items = static_cast<int>(bytes / kItemBytes);
  std::vector<int64_t> sums(static_cast<size_t>(items));
  const auto begin = std::chrono::steady_clock::now();
  penstock::parallel_for(items, [&](int i) { sums[static_cast<size_t>(i)] = sum_bytes(data + i * kItemBytes, kItemBytes); });
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  return static_cast<double>(items * kItemBytes) / time.count();
}
