#include <initializer_list>

#include "tiles.h"

namespace penstock {
namespace {

template <bool IsInt4>
PENSTOCK_INLINE void load_group(const uint8_t* p, Bytes* w) {
  if constexpr (IsInt4) {
    for (int i = 0; i < 4; ++i) {
      const Bytes both = load_bytes(p + i * 64);
      w[i] = low_nibbles(both);
      w[i + 4] = high_nibbles(both);
    }
  } else {
    for (int i = 0; i < 8; ++i) w[i] = load_bytes(p + i * 64);
  }
}

template <bool HasFloatScales>
PENSTOCK_INLINE F32 load_scales(const uint8_t* p, int group) {
  if constexpr (HasFloatScales) return load(reinterpret_cast<const float*>(p) + group * kLanes);
  return load_f16(reinterpret_cast<const uint16_t*>(p) + group * kLanes);
}

// The integer product of one group of 32 with one row, starting from `start`.
PENSTOCK_INLINE I32 dot_group(const Bytes* w, const uint8_t* x, I32 start) {
  I32 even = start, odd = splat_i32(0);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    even = dot4(even, w[i], splat_4_bytes(x + i * 4));
    odd = dot4(odd, w[i + 1], splat_4_bytes(x + i * 4 + 4));
  }
  return add_i32(even, odd);
}

// One tile with R rows of a block: out[r * 32 + lane].
template <int R, bool IsInt4, bool HasFloatScales, bool IsSymmetric>
void multiply_tile(const Pair& pair, int half, const Activations& x, const uint8_t* block, float* out) {
  const Weight& w = pair.weight;
  const uint8_t* tile = w.tile(2 * pair.index + half);
  constexpr int group_bytes = IsInt4 ? 256 : 512, scale_bytes = HasFloatScales ? 64 : 32;
  const int groups = w.groups();
  const uint8_t* scales = w.scales(tile);
  const uint8_t* minimums = scales + static_cast<size_t>(groups) * scale_bytes;
  const size_t scales_at = static_cast<size_t>(x.block_rows) * kGroup;
  const size_t sums_at = scales_at + static_cast<size_t>(x.block_rows) * 4;
  const size_t ahead = pair.ahead();
  F32 acc[R];
  for (int r = 0; r < R; ++r) acc[r] = splat(0.0f);
  for (int group = 0; group < groups; ++group, tile += group_bytes, block += x.step_bytes) {
    Bytes weights[8];
    load_group<IsInt4>(tile, weights);
    // The pair that comes next, while this one is used: with few rows memory is the limit.
    for (int line = 0; line < group_bytes; line += 64) __builtin_prefetch(tile + ahead + line);
    __builtin_prefetch(scales + ahead + group * scale_bytes);
    if constexpr (!IsSymmetric) __builtin_prefetch(minimums + ahead + group * scale_bytes);
    const F32 scale = load_scales<HasFloatScales>(scales, group);
    const F32 minimum = IsSymmetric ? splat(0.0f) : load_scales<HasFloatScales>(minimums, group);
    const float* row_scales = reinterpret_cast<const float*>(block + scales_at);
    const float* sums = reinterpret_cast<const float*>(block + sums_at);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const I32 start = splat_i32(IsSymmetric ? reinterpret_cast<const int32_t*>(sums)[r] : 0);
      const I32 dot = dot_group(weights, block + r * kGroup, start);
      acc[r] = fma(to_f32(dot), mul(scale, splat(row_scales[r])), acc[r]);
      if constexpr (!IsSymmetric) acc[r] = fma(minimum, splat(sums[r]), acc[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store(out + r * kPairRows + half * kLanes, acc[r]);
}

template <bool IsInt4, bool HasFloatScales, bool IsSymmetric>
void multiply(const Pair& pair, const Activations& x, int block, float* out) {
  with_rows<kMaxRows>(x.rows_of(block), [&]<int R>() {
    for (const int half : {0, 1}) {
      multiply_tile<R, IsInt4, HasFloatScales, IsSymmetric>(pair, half, x, x.block(block), out);
    }
  });
}

}  // namespace

void multiply_pair_integers(const Pair& pair, const Activations& x, int block, float* out) {
  const Weight& w = pair.weight;
  if (w.kind == kInt4) {
    return w.has_float_scales ? multiply<true, true, false>(pair, x, block, out)
                              : multiply<true, false, false>(pair, x, block, out);
  }
  if (w.is_symmetric) return multiply<false, false, true>(pair, x, block, out);
  return w.has_float_scales ? multiply<false, true, false>(pair, x, block, out)
                            : multiply<false, false, false>(pair, x, block, out);
}

}  // namespace penstock
