// The inner products: a tile pair of the weight with a few rows of activations. Every instantiation adds along K in the
// same order, so that a row's result does not depend on how many rows it shares a tile with.
#pragma once

#include "activations.h"
#include "weight.h"

namespace penstock {

// A pair of the weight's tiles, and the one that the same thread is likely to take after it.
struct Pair {
  const Weight& weight;
  int index;
  int next;
  const float* expanded;  // two times [columns][16]: only for weights that do not round activations

  // Bytes from this pair to the next one.
  size_t ahead() const { return static_cast<size_t>(next - index) * 2 * weight.tile_bytes(); }
};

// out[r * 32 + lane] for the rows of a block of activations and the 32 lanes of a pair; writes up to max_rows(weight) rows.
void multiply_pair(const Pair& pair, const Activations& x, int block, float* out);

// The same for integer products.
void multiply_pair_integers(const Pair& pair, const Activations& x, int block, float* out);

// What floats are made of. `left` and `right` are [steps][16] of 4-byte elements, float32 or pairs of bfloat16; so is `x`,
// [steps][count] with `step_bytes` from one step to the next; up to kMaxFloatRows rows.
struct FloatTiles {
  bool is_pair;
  const uint8_t* left;
  const uint8_t* right;
  const uint8_t* x;
  size_t step_bytes;
  int steps;
  int count;
};
void multiply_tiles(const FloatTiles& tiles, float* out);

// Most rows of a block.
constexpr int max_rows(const Weight& weight) {
  return weight.rounds_activations && weight.is_quantized() ? kMaxRows : kMaxFloatRows;
}

// The smallest instantiated number of rows that holds `count`.
constexpr int rows_to_compute(int count) {
  constexpr int kSizes[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16};
  for (const int size : kSizes) {
    if (count <= size) return size;
  }
  return 16;
}

// Calls body.template operator()<R>() with R = rows_to_compute(count), if R fits into Max.
template <int Max, typename Body>
PENSTOCK_INLINE void with_rows(int count, Body&& body) {
  switch (rows_to_compute(count)) {
    case 1: return body.template operator()<1>();
    case 2: return body.template operator()<2>();
    case 3: return body.template operator()<3>();
    case 4: if constexpr (Max >= 4) return body.template operator()<4>(); break;
    case 5: if constexpr (Max >= 5) return body.template operator()<5>(); break;
    case 6: if constexpr (Max >= 6) return body.template operator()<6>(); break;
    case 8: if constexpr (Max >= 8) return body.template operator()<8>(); break;
    case 10: if constexpr (Max >= 10) return body.template operator()<10>(); break;
    case 12: if constexpr (Max >= 12) return body.template operator()<12>(); break;
    default: if constexpr (Max >= 16) return body.template operator()<16>(); break;
  }
}

}  // namespace penstock
