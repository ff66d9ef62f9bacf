// A packed weight. Rows lie in tiles of 16, one row per lane; two tiles are a pair, the unit that kernels work on.
//
//   float32   tile = [K][16] floats
//   bfloat16  tile = [(K + 1) / 2][16][2] bfloat16, zero behind an odd K
//   8 bits    tile = [G][8][16][4] bytes, then [G][16] scales, then [G][16] minimums (none if symmetric)
//   4 bits    tile = [G][4][16][4] bytes: element 4c + b of a group in the low nibble of [c], 4(c + 4) + b in the high one
//
// G = K / 32. A gated weight's pair p holds rows [16p, 16p + 16) of the gate and the same rows of the up part.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd.h"

namespace penstock {

constexpr int kGroup = 32;
constexpr int kPairRows = 2 * kLanes;

enum Kind : int32_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2, kInt4 = 3 };

// Mirrored by native_weight.py.
struct Weight {
  int32_t kind;
  int32_t rounds_activations;  // to bfloat16 or int8; else they stay float32 and the weight is expanded
  int32_t has_float_scales;    // float32 scales, else float16
  int32_t is_symmetric;        // minimum = -128 * scale in every group: not stored
  int32_t is_gated;
  int32_t columns;
  int64_t rows;
  const uint8_t* data;
  const float* bias;  // [rows] or null

  bool is_quantized() const { return kind == kInt8 || kind == kInt4; }
  int groups() const { return columns / kGroup; }
  int group_bytes() const { return kind == kInt4 ? 256 : 512; }
  int scale_bytes() const { return has_float_scales ? 64 : 32; }
  int outputs() const { return static_cast<int>(is_gated ? rows / 2 : rows); }
  int outputs_of_pair() const { return is_gated ? kLanes : kPairRows; }
  int pairs() const { return (outputs() + outputs_of_pair() - 1) / outputs_of_pair(); }

  size_t tile_bytes() const {
    const size_t columns_ = static_cast<size_t>(columns);
    if (kind == kFloat32) return columns_ * 64;
    if (kind == kBFloat16) return (columns_ + 1) / 2 * 64;
    const int scales = scale_bytes() * (is_symmetric ? 1 : 2);
    return (static_cast<size_t>(groups()) * static_cast<size_t>(group_bytes() + scales) + 63) / 64 * 64;
  }
  size_t bytes() const { return static_cast<size_t>(pairs()) * 2 * tile_bytes(); }
  const uint8_t* tile(int64_t index) const { return data + static_cast<size_t>(index) * tile_bytes(); }
  const uint8_t* scales(const uint8_t* tile) const { return tile + static_cast<size_t>(groups()) * static_cast<size_t>(group_bytes()); }

  // The weight's row in lane `lane` of tile `index`, or -1 for padding.
  int64_t row_of(int64_t index, int lane) const {
    const int64_t row = is_gated ? index / 2 * kLanes + lane : index * kLanes + lane;
    if (row >= outputs()) return -1;
    return is_gated && index % 2 ? rows / 2 + row : row;
  }
};

// What a weight is packed from: rows as they lie on disk.
struct PackSource {
  const void* values;    // float32 [N, K], bfloat16 [N, K], bytes [N, K] or nibbles [N, K / 2]
  const void* scales;    // [N, G]
  const void* minimums;  // [N, G]
};

void pack_weight(const Weight& weight, const PackSource& source, uint8_t* target);

// Tile `index` of a weight that is not float32 as float32: [columns][16].
void expand_tile(const Weight& weight, int64_t index, float* out);

// Row `row` of a weight that is not gated: [columns].
void expand_row(const Weight& weight, int64_t row, float* out);

}  // namespace penstock
