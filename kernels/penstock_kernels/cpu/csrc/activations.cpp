#include "activations.h"

#include <algorithm>
#include <cmath>

#include "scratch.h"

namespace penstock {
namespace {

// Below this, a group counts as zero: 127 / x must not overflow.
constexpr float kSmallest = 1e-30f;

F32 load_up_to(const float* p, int left) { return left >= kLanes ? load(p) : load_some(p, left); }

float inverse_rms(const float* x, float eps, int columns) {
  F32 even = splat(0.0f), odd = splat(0.0f);
  for (int k = 0; k < columns; k += 2 * kLanes) {
    const F32 a = load_up_to(x + k, columns - k);
    even = fma(a, a, even);
    if (k + kLanes < columns) {
      const F32 b = load_up_to(x + k + kLanes, columns - k - kLanes);
      odd = fma(b, b, odd);
    }
  }
  return 1.0f / std::sqrt(reduce_add(add(even, odd)) / static_cast<float>(columns) + eps);
}

// 16 elements of a row, normalised if there is a norm.
PENSTOCK_INLINE F32 normalized(const float* x, const float* norm, F32 factor, int k, int left) {
  const F32 value = load_up_to(x + k, left);
  return norm == nullptr ? value : mul(mul(value, factor), load_up_to(norm + k, left));
}

void quantize_row(const float* x, const float* norm, F32 factor, const Activations& out, int row) {
  int8_t* values = reinterpret_cast<int8_t*>(out.values + static_cast<size_t>(row) * out.row_bytes);
  for (int group = 0; group < out.groups; ++group) {
    const F32 a = normalized(x, norm, factor, group * kGroup, kLanes);
    const F32 b = normalized(x, norm, factor, group * kGroup + kLanes, kLanes);
    const float largest = reduce_max(max_f32(abs_f32(a), abs_f32(b)));
    const F32 inverse = splat(largest > kSmallest ? 127.0f / largest : 0.0f);
    const I32 low = round_to_i32(mul(a, inverse)), high = round_to_i32(mul(b, inverse));
    store_i8(values + group * kGroup, low);
    store_i8(values + group * kGroup + kLanes, high);
    const size_t index = static_cast<size_t>(row) * static_cast<size_t>(out.groups) + static_cast<size_t>(group);
    const int32_t sum = reduce_add_i32(add_i32(low, high));
    out.scale[index] = largest / 127.0f;
    out.scaled_sum[index] = out.scale[index] * static_cast<float>(sum);
    out.offset[index] = -128 * sum;
  }
}

}  // namespace

Activations reserve_activations(const Weight& w, int rows) {
  // A tile may read rows behind the last one (their products are dropped), so they exist.
  const size_t padded = static_cast<size_t>(rows + kMaxRows);
  const size_t unit = !w.rounds_activations ? 4 : w.is_quantized() ? 1 : 2;
  Activations result{};
  result.groups = w.is_quantized() && w.rounds_activations ? w.groups() : 0;
  result.row_bytes = (static_cast<size_t>(w.columns) * unit + 63) / 64 * 64 + 64;
  const size_t per_group = padded * static_cast<size_t>(result.groups) * 4;
  uint8_t* memory = scratch(padded * result.row_bytes + 3 * per_group);
  result.values = memory;
  memory += padded * result.row_bytes;
  result.scale = reinterpret_cast<float*>(memory);
  result.scaled_sum = reinterpret_cast<float*>(memory + per_group);
  result.offset = reinterpret_cast<int32_t*>(memory + 2 * per_group);
  return result;
}

void prepare_row(const Weight& w, const float* x, const float* norm, float eps, const Activations& out, int row) {
  const F32 factor = splat(norm == nullptr ? 1.0f : inverse_rms(x, eps, w.columns));
  if (out.groups > 0) return quantize_row(x, norm, factor, out, row);
  uint8_t* values = out.values + static_cast<size_t>(row) * out.row_bytes;
  for (int k = 0; k < w.columns; k += kLanes) {  // a row's padding takes what a last partial vector writes
    const F32 value = normalized(x, norm, factor, k, w.columns - k);
    if (w.rounds_activations) {
      store_bf16(reinterpret_cast<uint16_t*>(values) + k, value);
    } else {
      store(reinterpret_cast<float*>(values) + k, value);
    }
  }
}

void rms_norm_row(const float* x, const float* norm, float eps, int columns, float* out) {
  const F32 factor = splat(inverse_rms(x, eps, columns));
  for (int k = 0; k < columns; k += kLanes) {
    const int left = std::min(kLanes, columns - k);
    store_some(out + k, normalized(x, norm, factor, k, columns - k), left);
  }
}

}  // namespace penstock
