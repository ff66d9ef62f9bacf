// Activations made ready to meet a weight: normalised if wanted, rounded as the weight asks, and laid out in blocks of
// rows, such that what a tile of the weight meets at one step of K lies together:
//
//   float32, bfloat16  block = [steps][rows] of 4 bytes: a float32, or a pair of bfloat16
//   integers           block = [groups] of: int8 [rows][32], float32 scale [rows], then [rows] of float32 scale * sum of
//                      the integers, or for a symmetric weight of int32 -128 * that sum
#pragma once

#include <cstddef>
#include <cstdint>

#include "weight.h"

namespace penstock {

struct Activations {
  uint8_t* data;
  int rows;
  int block_rows;
  size_t step_bytes;   // from one step (or group) to the next
  size_t block_bytes;  // from one block to the next

  int blocks() const { return (rows + block_rows - 1) / block_rows; }
  int rows_of(int block) const { return rows - block * block_rows < block_rows ? rows - block * block_rows : block_rows; }
  uint8_t* block(int index) const { return data + static_cast<size_t>(index) * block_bytes; }
};

// Scratch for `rows` rows in blocks of at most `most`, which lives until the next call.
Activations reserve_activations(const Weight& weight, int rows, int most);

// Block `block` of `out` from x [rows, columns]; `norm` [columns] or null.
void prepare_block(const Weight& weight, const float* x, const float* norm, float eps, const Activations& out, int block);

// out = x / rms(x) * norm
void rms_norm_row(const float* x, const float* norm, float eps, int columns, float* out);

}  // namespace penstock
