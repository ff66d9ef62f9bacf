// The lanes of simd.h in two AVX2 registers.
#pragma once

#include <immintrin.h>

#include <initializer_list>

namespace penstock {

struct F32 {
  __m256 a, b;
};
struct I32 {
  __m256i a, b;
};
struct Bytes {
  __m256i a, b;
};

constexpr const char* kVariant = "avx2";
constexpr int kMaxRows = 4;
constexpr int kMaxFloatRows = 3;

PENSTOCK_INLINE __m256i load_half(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
PENSTOCK_INLINE void store_half(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
PENSTOCK_INLINE __m256i load_16_bytes_as_i32(const void* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}

PENSTOCK_INLINE F32 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PENSTOCK_INLINE I32 splat_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
PENSTOCK_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PENSTOCK_INLINE void store(float* p, F32 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
PENSTOCK_INLINE F32 load_some(const float* p, int n) {
  float buffer[16] = {};
  std::memcpy(buffer, p, sizeof(float) * static_cast<size_t>(n));
  return load(buffer);
}
PENSTOCK_INLINE void store_some(float* p, F32 x, int n) {
  float buffer[16];
  store(buffer, x);
  std::memcpy(p, buffer, sizeof(float) * static_cast<size_t>(n));
}
PENSTOCK_INLINE F32 add(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
PENSTOCK_INLINE F32 sub(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
PENSTOCK_INLINE F32 mul(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
PENSTOCK_INLINE F32 div(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
PENSTOCK_INLINE F32 fma(F32 x, F32 y, F32 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
PENSTOCK_INLINE F32 max_f32(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
PENSTOCK_INLINE F32 min_f32(F32 x, F32 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
PENSTOCK_INLINE F32 abs_f32(F32 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
PENSTOCK_INLINE F32 round_f32(F32 x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
PENSTOCK_INLINE __m256 power_of_2(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
PENSTOCK_INLINE F32 scale_by_power_of_2(F32 x, F32 n) {
  return {_mm256_mul_ps(x.a, power_of_2(n.a)), _mm256_mul_ps(x.b, power_of_2(n.b))};
}
PENSTOCK_INLINE __m256 expand_mask(uint32_t mask) {
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i all = _mm256_set1_epi32(static_cast<int>(mask));
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, bits), bits));
}
PENSTOCK_INLINE F32 select(uint32_t mask, F32 x, F32 y) {
  return {_mm256_blendv_ps(y.a, x.a, expand_mask(mask)), _mm256_blendv_ps(y.b, x.b, expand_mask(mask >> 8))};
}
PENSTOCK_INLINE float reduce_add(F32 x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 r = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  r = _mm_add_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}
PENSTOCK_INLINE float reduce_max(F32 x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  __m128 r = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  r = _mm_max_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}

PENSTOCK_INLINE I32 add_i32(I32 x, I32 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
PENSTOCK_INLINE I32 round_to_i32(F32 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
PENSTOCK_INLINE F32 to_f32(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
PENSTOCK_INLINE int32_t reduce_add_i32(I32 x) {
  int32_t lanes[8];
  store_half(lanes, _mm256_add_epi32(x.a, x.b));
  int32_t sum = 0;
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}
PENSTOCK_INLINE void store_i8(int8_t* p, I32 x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

PENSTOCK_INLINE F32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
PENSTOCK_INLINE F32 load_bf16(const uint16_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(load_16_bytes_as_i32(p), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(load_16_bytes_as_i32(p + 8), 16))};
}
PENSTOCK_INLINE __m256i round_to_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
  const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  const __m256 result = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_castps_si256(result), 16);
}
PENSTOCK_INLINE void store_bf16(uint16_t* p, F32 x) {
  store_half(p, _mm256_permute4x64_epi64(_mm256_packus_epi32(round_to_bf16(x.a), round_to_bf16(x.b)), 0xd8));
}

PENSTOCK_INLINE Bytes load_bytes(const void* p) {
  return {load_half(p), load_half(static_cast<const char*>(p) + 32)};
}
PENSTOCK_INLINE void store_bytes(void* p, Bytes x) {
  store_half(p, x.a);
  store_half(static_cast<char*>(p) + 32, x.b);
}
PENSTOCK_INLINE Bytes low_nibbles(Bytes x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
PENSTOCK_INLINE Bytes high_nibbles(Bytes x) {
  return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
PENSTOCK_INLINE F32 byte_to_f32(Bytes x, int j) {
  const __m256i mask = _mm256_set1_epi32(255);
  return to_f32({_mm256_and_si256(_mm256_srli_epi32(x.a, 8 * j), mask),
                 _mm256_and_si256(_mm256_srli_epi32(x.b, 8 * j), mask)});
}
PENSTOCK_INLINE F32 low_bf16(Bytes x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))};
}
PENSTOCK_INLINE F32 high_bf16(Bytes x) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(x.a, mask)), _mm256_castsi256_ps(_mm256_and_si256(x.b, mask))};
}
// Even and odd bytes apart in 16 bits: exact for weights up to 255, where vpmaddubsw would saturate.
PENSTOCK_INLINE __m256i dot4_half(__m256i acc, __m256i w, __m256i x_even, __m256i x_odd) {
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), x_even);
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), x_odd);
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
PENSTOCK_INLINE Bytes splat_4_bytes(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
}
PENSTOCK_INLINE I32 dot4(I32 acc, Bytes w, Bytes x) {  // both halves of `x` are the same
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x.a, 8), 8);
  const __m256i odd = _mm256_srai_epi16(x.a, 8);
  return {dot4_half(acc.a, w.a, even, odd), dot4_half(acc.b, w.b, even, odd)};
}
PENSTOCK_INLINE F32 dot2(F32 acc, Bytes w, Bytes x) {
  return fma(low_bf16(w), low_bf16(x), fma(high_bf16(w), high_bf16(x), acc));
}

PENSTOCK_INLINE void transpose16(const uint32_t* const* rows, int offset, uint32_t* out, int stride) {
  for (const int top : {0, 8}) {
    for (const int left : {0, 8}) {
      __m256i a[8], b[8];
      for (int i = 0; i < 8; ++i) a[i] = load_half(rows[top + i] + offset + left);
      for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
      }
      for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
      }
      for (int i = 0; i < 4; ++i) {
        store_half(out + (left + i) * stride + top, _mm256_permute2x128_si256(a[i], a[i + 4], 0x20));
        store_half(out + (left + i + 4) * stride + top, _mm256_permute2x128_si256(a[i], a[i + 4], 0x31));
      }
    }
  }
}
PENSTOCK_INLINE Bytes interleave16(const uint16_t* x, const uint16_t* y) {
  const __m256i a = _mm256_or_si256(load_16_bytes_as_i32(x), _mm256_slli_epi32(load_16_bytes_as_i32(y), 16));
  const __m256i b = _mm256_or_si256(load_16_bytes_as_i32(x + 8), _mm256_slli_epi32(load_16_bytes_as_i32(y + 8), 16));
  return {a, b};
}

}  // namespace penstock
