#include "activations.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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

// Row `row` of a block from x [columns].
void quantize_row(const Weight& w, const float* x, const float* norm, F32 factor, const Activations& out, uint8_t* block,
                  int row) {
  for (int group = 0; group < w.groups(); ++group) {
    uint8_t* record = block + static_cast<size_t>(group) * out.step_bytes;
    const F32 a = normalized(x, norm, factor, group * kGroup, kLanes);
    const F32 b = normalized(x, norm, factor, group * kGroup + kLanes, kLanes);
    const float largest = reduce_max(max_f32(abs_f32(a), abs_f32(b)));
    const F32 inverse = splat(largest > kSmallest ? 127.0f / largest : 0.0f);
    const I32 low = round_to_i32(mul(a, inverse)), high = round_to_i32(mul(b, inverse));
    int8_t* values = reinterpret_cast<int8_t*>(record) + row * kGroup;
    store_i8(values, low);
    store_i8(values + kLanes, high);
    const int32_t sum = reduce_add_i32(add_i32(low, high));
    float* scales = reinterpret_cast<float*>(record + out.block_rows * kGroup);
    scales[row] = largest / 127.0f;
    if (w.is_symmetric) {
      reinterpret_cast<int32_t*>(scales)[out.block_rows + row] = -128 * sum;
    } else {
      scales[out.block_rows + row] = scales[row] * static_cast<float>(sum);
    }
  }
}

void round_row(const Weight& w, const float* x, const float* norm, F32 factor, const Activations& out, uint8_t* block,
               int row) {
  const int per_step = w.rounds_activations ? 2 : 1;
  for (int k = 0; k < w.columns; k += kLanes) {
    const F32 value = normalized(x, norm, factor, k, w.columns - k);
    uint32_t steps[kLanes];
    if (w.rounds_activations) {
      store_bf16(reinterpret_cast<uint16_t*>(steps), value);
    } else {
      store(reinterpret_cast<float*>(steps), value);
    }
    const int count = (std::min(kLanes, w.columns - k) + per_step - 1) / per_step;
    uint8_t* target = block + static_cast<size_t>(k / per_step) * out.step_bytes + row * 4;
    for (int i = 0; i < count; ++i) std::memcpy(target + static_cast<size_t>(i) * out.step_bytes, steps + i, 4);
  }
}

}  // namespace

Activations reserve_activations(const Weight& w, int rows, int most) {
  const bool is_integer = w.rounds_activations && w.is_quantized();
  Activations result{};
  result.rows = rows;
  result.block_rows = std::min(rows, most);
  const size_t steps = static_cast<size_t>(is_integer ? w.groups() : w.rounds_activations ? (w.columns + 1) / 2 : w.columns);
  result.step_bytes = static_cast<size_t>(result.block_rows) * (is_integer ? kGroup + 8 : 4);
  result.block_bytes = (steps * result.step_bytes + 63) / 64 * 64;
  // A tile may read rows behind a block's last one (their products are dropped), so memory goes on.
  result.data = scratch(static_cast<size_t>(result.blocks()) * result.block_bytes + kMaxRows * kGroup);
  return result;
}

void prepare_block(const Weight& w, const float* x, const float* norm, float eps, const Activations& out, int block) {
  uint8_t* data = out.block(block);
  for (int row = 0; row < out.rows_of(block); ++row) {
    const float* source = x + (static_cast<int64_t>(block) * out.block_rows + row) * w.columns;
    const F32 factor = splat(norm == nullptr ? 1.0f : inverse_rms(source, eps, w.columns));
    if (w.rounds_activations && w.is_quantized()) {
      quantize_row(w, source, norm, factor, out, data, row);
    } else {
      round_row(w, source, norm, factor, out, data, row);
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
