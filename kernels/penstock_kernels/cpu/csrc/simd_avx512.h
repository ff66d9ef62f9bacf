// The lanes of simd.h in one AVX-512 register; bfloat16 products by the processor where it has them.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC up to 13 warns of its own intrinsics' undefined registers wherever they are inlined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace penstock {

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};
// 64 bytes as they lie in memory.
struct Bytes {
  __m512i v;
};

#if defined(__AVX512BF16__)
constexpr const char* kVariant = "avx512_bf16";
#else
constexpr const char* kVariant = "avx512_vnni";
#endif
constexpr int kMaxRows = 16;       // activation rows of one integer tile: 16 accumulators, 8 weights, the rest temporaries
constexpr int kMaxFloatRows = 12;  // of one float tile, which is two vectors wide

PENSTOCK_INLINE F32 splat(float x) { return {_mm512_set1_ps(x)}; }
PENSTOCK_INLINE I32 splat_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
PENSTOCK_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
PENSTOCK_INLINE void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
PENSTOCK_INLINE F32 load_some(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)};
}
PENSTOCK_INLINE void store_some(float* p, F32 x, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), x.v);
}
PENSTOCK_INLINE F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
PENSTOCK_INLINE F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
PENSTOCK_INLINE F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
PENSTOCK_INLINE F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
PENSTOCK_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
PENSTOCK_INLINE F32 max_f32(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
PENSTOCK_INLINE F32 min_f32(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
PENSTOCK_INLINE F32 abs_f32(F32 a) { return {_mm512_abs_ps(a.v)}; }
PENSTOCK_INLINE F32 round_f32(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
PENSTOCK_INLINE F32 scale_by_power_of_2(F32 a, F32 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
// Lanes whose bit in `mask` is set come from `a`, the others from `b`.
PENSTOCK_INLINE F32 select(uint32_t mask, F32 a, F32 b) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(mask), b.v, a.v)};
}
PENSTOCK_INLINE float reduce_add(F32 a) { return _mm512_reduce_add_ps(a.v); }
PENSTOCK_INLINE float reduce_max(F32 a) { return _mm512_reduce_max_ps(a.v); }

PENSTOCK_INLINE I32 add_i32(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
PENSTOCK_INLINE I32 round_to_i32(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
PENSTOCK_INLINE F32 to_f32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
PENSTOCK_INLINE int32_t reduce_add_i32(I32 a) { return _mm512_reduce_add_epi32(a.v); }
PENSTOCK_INLINE void store_i8(int8_t* p, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

PENSTOCK_INLINE F32 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
PENSTOCK_INLINE F32 load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
// Round to nearest even; a NaN stays one.
PENSTOCK_INLINE void store_bf16(uint16_t* p, F32 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

PENSTOCK_INLINE Bytes load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
PENSTOCK_INLINE void store_bytes(void* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
PENSTOCK_INLINE Bytes low_nibbles(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
PENSTOCK_INLINE Bytes high_nibbles(Bytes a) {
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
// Byte `j` of each lane as a float.
PENSTOCK_INLINE F32 byte_to_f32(Bytes a, int j) {
  return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(a.v, static_cast<unsigned>(8 * j)), _mm512_set1_epi32(255)))};
}
// The bfloat16 in the low and in the high half of each lane.
PENSTOCK_INLINE F32 low_bf16(Bytes a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }
PENSTOCK_INLINE F32 high_bf16(Bytes a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
// Four bytes in every lane.
PENSTOCK_INLINE Bytes splat_4_bytes(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return {_mm512_set1_epi32(four)};
}
// acc + the four products of unsigned weight bytes and the signed bytes of `x`, in each lane.
PENSTOCK_INLINE I32 dot4(I32 acc, Bytes w, Bytes x) { return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)}; }
// acc + the two bfloat16 products of `w` and `x`, in each lane.
PENSTOCK_INLINE F32 dot2(F32 acc, Bytes w, Bytes x) {
#if defined(__AVX512BF16__)
  return {_mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(w.v), reinterpret_cast<__m512bh>(x.v))};
#else
  return fma(low_bf16(w), low_bf16(x), fma(high_bf16(w), high_bf16(x), acc));
#endif
}

// Lane i of row r, 16 rows of 16 lanes, becomes lane r of out row i; `stride` in lanes.
PENSTOCK_INLINE void transpose16(const uint32_t* const* rows, int offset, uint32_t* out, int stride) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i] + offset);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(out + i * stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
    _mm512_storeu_si512(out + (i + 4) * stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88));
    _mm512_storeu_si512(out + (i + 8) * stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    _mm512_storeu_si512(out + (i + 12) * stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd));
  }
}

// The 16 pairs (a[i], b[i]) of two rows of 16-bit elements.
PENSTOCK_INLINE Bytes interleave16(const uint16_t* a, const uint16_t* b) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  return {_mm512_or_si512(low, _mm512_slli_epi32(high, 16))};
}

}  // namespace penstock
