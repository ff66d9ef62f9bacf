// Activations made ready to meet a weight: normalised if wanted, then rounded as the weight asks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "weight.h"

namespace penstock {

// Rows of one matmul in the library's scratch memory. Strides are padded, so that rows do not share cache sets.
struct Activations {
  uint8_t* values;      // float32, bfloat16 or int8
  size_t row_bytes;     // from one row to the next
  float* scale;         // [rows, groups], integers only
  float* scaled_sum;    // scale * sum of the group's integers
  int32_t* offset;      // -128 * sum of the group's integers
  int groups;
};

// Scratch for `rows` rows, which lives until the next call.
Activations reserve_activations(const Weight& weight, int rows);

// Row `row` of `out` from x [columns]; `norm` [columns] or null.
void prepare_row(const Weight& weight, const float* x, const float* norm, float eps, const Activations& out, int row);

// out = x / rms(x) * norm
void rms_norm_row(const float* x, const float* norm, float eps, int columns, float* out);

}  // namespace penstock
