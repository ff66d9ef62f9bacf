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
  for (int i = 0; i < 8; i += 2) {
    int32_t four[2];
    std::memcpy(four, x + i * 4, 8);
    even = dot4(even, w[i], four[0]);
    odd = dot4(odd, w[i + 1], four[1]);
  }
  return add_i32(even, odd);
}

// One tile with R rows from `first` on: out[r * 32 + lane].
template <int R, bool IsInt4, bool HasFloatScales, bool IsSymmetric>
void multiply_tile(const Weight& w, const uint8_t* tile, const Activations& x, int first, float* out) {
  const int groups = x.groups;
  const uint8_t* scales = w.scales(tile);
  const uint8_t* minimums = scales + static_cast<size_t>(groups) * (HasFloatScales ? 64 : 32);
  const uint8_t* rows = x.values + static_cast<size_t>(first) * x.row_bytes;
  const size_t base = static_cast<size_t>(first) * static_cast<size_t>(groups);
  F32 acc[R];
  for (int r = 0; r < R; ++r) acc[r] = splat(0.0f);
  for (int group = 0; group < groups; ++group) {
    Bytes weights[8];
    load_group<IsInt4>(tile + static_cast<size_t>(group) * (IsInt4 ? 256 : 512), weights);
    const F32 scale = load_scales<HasFloatScales>(scales, group);
    const F32 minimum = IsSymmetric ? splat(0.0f) : load_scales<HasFloatScales>(minimums, group);
    for (int r = 0; r < R; ++r) {
      const size_t index = base + static_cast<size_t>(r * groups + group);
      const I32 start = splat_i32(IsSymmetric ? x.offset[index] : 0);
      const I32 dot = dot_group(weights, rows + static_cast<size_t>(r) * x.row_bytes + group * kGroup, start);
      acc[r] = fma(to_f32(dot), mul(scale, splat(x.scale[index])), acc[r]);
      if constexpr (!IsSymmetric) acc[r] = fma(minimum, splat(x.scaled_sum[index]), acc[r]);
    }
  }
  for (int r = 0; r < R; ++r) store(out + r * kPairRows, acc[r]);
}

template <bool IsInt4, bool HasFloatScales, bool IsSymmetric>
void multiply(const Weight& w, int pair, const Activations& x, int first, int count, float* out) {
  with_rows<kMaxRows>(count, [&]<int R>() {
    multiply_tile<R, IsInt4, HasFloatScales, IsSymmetric>(w, w.tile(2 * pair), x, first, out);
    multiply_tile<R, IsInt4, HasFloatScales, IsSymmetric>(w, w.tile(2 * pair + 1), x, first, out + kLanes);
  });
}

}  // namespace

void multiply_pair_integers(const Weight& w, int pair, const Activations& x, int first, int count, float* out) {
  if (w.kind == kInt4) {
    return w.has_float_scales ? multiply<true, true, false>(w, pair, x, first, count, out)
                              : multiply<true, false, false>(w, pair, x, first, count, out);
  }
  if (w.is_symmetric) return multiply<false, false, true>(w, pair, x, first, count, out);
  return w.has_float_scales ? multiply<false, true, false>(w, pair, x, first, count, out)
                            : multiply<false, false, false>(w, pair, x, first, count, out);
}

}  // namespace penstock
