// The lanes of simd.h in plain loops, which compilers turn into whatever the machine has.
#pragma once

#include <algorithm>
#include <cmath>

namespace penstock {

struct F32 {
  float v[16];
};
struct I32 {
  int32_t v[16];
};
struct Bytes {
  uint32_t v[16];
};

constexpr const char* kVariant = "baseline";
constexpr int kMaxRows = 4;
constexpr int kMaxFloatRows = 4;

#define PENSTOCK_EACH_LANE for (int i = 0; i < 16; ++i)

PENSTOCK_INLINE F32 splat(float x) {
  F32 r;
  PENSTOCK_EACH_LANE r.v[i] = x;
  return r;
}
PENSTOCK_INLINE I32 splat_i32(int32_t x) {
  I32 r;
  PENSTOCK_EACH_LANE r.v[i] = x;
  return r;
}
PENSTOCK_INLINE F32 load(const float* p) {
  F32 r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
PENSTOCK_INLINE void store(float* p, F32 x) { std::memcpy(p, x.v, sizeof x.v); }
PENSTOCK_INLINE F32 load_some(const float* p, int n) {
  F32 r = splat(0.0f);
  for (int i = 0; i < n; ++i) r.v[i] = p[i];
  return r;
}
PENSTOCK_INLINE void store_some(float* p, F32 x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.v[i];
}
PENSTOCK_INLINE F32 add(F32 a, F32 b) {
  PENSTOCK_EACH_LANE a.v[i] += b.v[i];
  return a;
}
PENSTOCK_INLINE F32 sub(F32 a, F32 b) {
  PENSTOCK_EACH_LANE a.v[i] -= b.v[i];
  return a;
}
PENSTOCK_INLINE F32 mul(F32 a, F32 b) {
  PENSTOCK_EACH_LANE a.v[i] *= b.v[i];
  return a;
}
PENSTOCK_INLINE F32 div(F32 a, F32 b) {
  PENSTOCK_EACH_LANE a.v[i] /= b.v[i];
  return a;
}
PENSTOCK_INLINE F32 fma(F32 a, F32 b, F32 c) {
  PENSTOCK_EACH_LANE c.v[i] += a.v[i] * b.v[i];
  return c;
}
PENSTOCK_INLINE F32 max_f32(F32 a, F32 b) {
  PENSTOCK_EACH_LANE a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
PENSTOCK_INLINE F32 min_f32(F32 a, F32 b) {
  PENSTOCK_EACH_LANE a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
PENSTOCK_INLINE F32 abs_f32(F32 a) {
  PENSTOCK_EACH_LANE a.v[i] = std::fabs(a.v[i]);
  return a;
}
// To nearest even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
PENSTOCK_INLINE F32 round_f32(F32 a) {
  PENSTOCK_EACH_LANE a.v[i] = (a.v[i] + 12582912.0f) - 12582912.0f;
  return a;
}
PENSTOCK_INLINE I32 round_to_i32(F32 a) {
  a = round_f32(a);
  I32 r;
  PENSTOCK_EACH_LANE r.v[i] = static_cast<int32_t>(a.v[i]);
  return r;
}
PENSTOCK_INLINE F32 scale_by_power_of_2(F32 a, F32 n) {
  PENSTOCK_EACH_LANE {
    const int32_t bits = (static_cast<int32_t>(n.v[i]) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    a.v[i] *= power;
  }
  return a;
}
PENSTOCK_INLINE F32 select(uint32_t mask, F32 a, F32 b) {
  PENSTOCK_EACH_LANE a.v[i] = (mask >> i) & 1 ? a.v[i] : b.v[i];
  return a;
}
PENSTOCK_INLINE float reduce_add(F32 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}
PENSTOCK_INLINE float reduce_max(F32 a) { return *std::max_element(a.v, a.v + 16); }

PENSTOCK_INLINE I32 add_i32(I32 a, I32 b) {
  PENSTOCK_EACH_LANE a.v[i] += b.v[i];
  return a;
}
PENSTOCK_INLINE F32 to_f32(I32 a) {
  F32 r;
  PENSTOCK_EACH_LANE r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
PENSTOCK_INLINE int32_t reduce_add_i32(I32 a) {
  int32_t sum = 0;
  PENSTOCK_EACH_LANE sum += a.v[i];
  return sum;
}
PENSTOCK_INLINE void store_i8(int8_t* p, I32 a) { PENSTOCK_EACH_LANE p[i] = static_cast<int8_t>(a.v[i]); }

PENSTOCK_INLINE float bits_to_float(uint32_t bits) {
  float r;
  std::memcpy(&r, &bits, sizeof r);
  return r;
}
// Exact for every half, subnormals included: the exponent is moved by a multiplication.
PENSTOCK_INLINE F32 load_f16(const uint16_t* p) {
  F32 r;
  PENSTOCK_EACH_LANE {
    const uint32_t half = p[i];
    const uint32_t infinite = (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
    const float magnitude = bits_to_float((half & 0x7fffu) << 13) * 5.192296858534828e33f;
    r.v[i] = infinite ? bits_to_float(infinite | ((half & 0x3ffu) << 13)) : magnitude;
    r.v[i] = half & 0x8000u ? -r.v[i] : r.v[i];
  }
  return r;
}
PENSTOCK_INLINE F32 load_bf16(const uint16_t* p) {
  F32 r;
  PENSTOCK_EACH_LANE r.v[i] = bits_to_float(static_cast<uint32_t>(p[i]) << 16);
  return r;
}
PENSTOCK_INLINE void store_bf16(uint16_t* p, F32 a) {
  PENSTOCK_EACH_LANE {
    uint32_t bits;
    std::memcpy(&bits, &a.v[i], sizeof bits);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    p[i] = is_nan ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
  }
}

PENSTOCK_INLINE Bytes load_bytes(const void* p) {
  Bytes r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
PENSTOCK_INLINE void store_bytes(void* p, Bytes a) { std::memcpy(p, a.v, sizeof a.v); }
PENSTOCK_INLINE Bytes low_nibbles(Bytes a) {
  PENSTOCK_EACH_LANE a.v[i] &= 0x0f0f0f0fu;
  return a;
}
PENSTOCK_INLINE Bytes high_nibbles(Bytes a) {
  PENSTOCK_EACH_LANE a.v[i] = (a.v[i] >> 4) & 0x0f0f0f0fu;
  return a;
}
PENSTOCK_INLINE F32 byte_to_f32(Bytes a, int j) {
  F32 r;
  PENSTOCK_EACH_LANE r.v[i] = static_cast<float>(static_cast<int32_t>((a.v[i] >> (8 * j)) & 255));
  return r;
}
PENSTOCK_INLINE F32 low_bf16(Bytes a) {
  F32 r;
  PENSTOCK_EACH_LANE r.v[i] = bits_to_float(a.v[i] << 16);
  return r;
}
PENSTOCK_INLINE F32 high_bf16(Bytes a) {
  F32 r;
  PENSTOCK_EACH_LANE r.v[i] = bits_to_float(a.v[i] & 0xffff0000u);
  return r;
}
PENSTOCK_INLINE Bytes splat_4_bytes(const uint8_t* p) {
  Bytes r;
  std::memcpy(r.v, p, 4);
  PENSTOCK_EACH_LANE r.v[i] = r.v[0];
  return r;
}
PENSTOCK_INLINE I32 dot4(I32 acc, Bytes w, Bytes x) {
  for (int j = 0; j < 4; ++j) {
    const int32_t byte = static_cast<int8_t>(x.v[0] >> (8 * j));  // all lanes of `x` are the same
    PENSTOCK_EACH_LANE acc.v[i] += static_cast<int32_t>((w.v[i] >> (8 * j)) & 255) * byte;
  }
  return acc;
}
PENSTOCK_INLINE F32 dot2(F32 acc, Bytes w, Bytes x) {
  return fma(low_bf16(w), low_bf16(x), fma(high_bf16(w), high_bf16(x), acc));
}

PENSTOCK_INLINE void transpose16(const uint32_t* const* rows, int offset, uint32_t* out, int stride) {
  for (int r = 0; r < 16; ++r) {
    for (int i = 0; i < 16; ++i) out[i * stride + r] = rows[r][offset + i];
  }
}
PENSTOCK_INLINE Bytes interleave16(const uint16_t* a, const uint16_t* b) {
  Bytes r;
  PENSTOCK_EACH_LANE r.v[i] = a[i] | (static_cast<uint32_t>(b[i]) << 16);
  return r;
}

#undef PENSTOCK_EACH_LANE

}  // namespace penstock
