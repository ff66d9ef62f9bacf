// Sixteen lanes of 32 bits: the one vector width that all kernels are written in. Each variant of the library compiles
// the same kernels over one of three implementations. Fused multiply-adds are spelled out (the build turns contraction
// off), so that every instantiation of a kernel rounds alike.
#pragma once

#include <cstdint>
#include <cstring>

#define PENSTOCK_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

namespace penstock {

constexpr int kLanes = 16;

// exp(x), within 2 ulp for the x <= 0 of a softmax and any x that does not overflow; Cephes' polynomial.
PENSTOCK_INLINE F32 exp_f32(F32 x) {
  x = min_f32(max_f32(x, splat(-87.0f)), splat(88.0f));
  const F32 n = round_f32(mul(x, splat(1.44269504088896341f)));
  F32 r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  F32 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, splat(1.0f)));
  return scale_by_power_of_2(p, n);
}

// x / (1 + exp(-x))
PENSTOCK_INLINE F32 silu(F32 x) { return div(x, add(splat(1.0f), exp_f32(sub(splat(0.0f), x)))); }

}  // namespace penstock
