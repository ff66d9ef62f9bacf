#include "linear.h"

#include <algorithm>

#include "activations.h"
#include "pool.h"
#include "scratch.h"
#include "tiles.h"

namespace penstock {
namespace {

constexpr int kRowsAtOnce = 768;   // rows whose activations are prepared together: bounds the scratch memory
constexpr int kRowsPerItem = 192;  // rows of one work item: their activations stay in the second-level cache
constexpr int kItemsPerThread = 8;

struct Tile {
  int pair;
  int row;
  int count;
  const float* products;  // [count][32]
};

// Bias, gate and residual for one tile, and the store.
void finish(const LinearCall& call, const Tile& tile) {
  const Weight& w = *call.weight;
  const int outputs = w.outputs();
  const int width = w.outputs_of_pair();
  for (int r = 0; r < tile.count; ++r) {
    for (int lane = 0; lane < width; lane += kLanes) {
      const int column = tile.pair * width + lane;
      const int count = std::min(kLanes, outputs - column);
      if (count <= 0) break;
      F32 value = load(tile.products + r * kPairRows + lane);
      if (w.bias != nullptr) value = add(value, load_some(w.bias + column, count));
      if (w.is_gated) {
        F32 up = load(tile.products + r * kPairRows + kLanes);
        if (w.bias != nullptr) up = add(up, load_some(w.bias + outputs + column, count));
        value = mul(silu(value), up);
      }
      const int64_t at = (tile.row + r) * static_cast<int64_t>(outputs) + column;
      if (call.residual != nullptr) value = add(value, load_some(call.residual + at, count));
      store_some(call.out + at, value, count);
    }
  }
}

// Blocks [begin, end) of activations with one pair of the weight.
void multiply_blocks(const LinearCall& call, const Activations& x, Pair pair, int begin, int end) {
  const Weight& w = *call.weight;
  pair.expanded = reinterpret_cast<const float*>(w.tile(2 * pair.index));
  if (!w.rounds_activations && w.kind != kFloat32) {
    const size_t tile_floats = static_cast<size_t>(w.columns) * kLanes;
    float* memory = reinterpret_cast<float*>(thread_scratch(2 * tile_floats * sizeof(float)));
    expand_tile(w, 2 * pair.index, memory);
    expand_tile(w, 2 * pair.index + 1, memory + tile_floats);
    pair.expanded = memory;
  }
  for (int block = begin; block < end; ++block) {
    alignas(64) float products[kMaxRows * kPairRows];
    multiply_pair(pair, x, block, products);
    finish(call, {pair.index, block * x.block_rows, x.rows_of(block), products});
  }
}

void multiply_rows(const LinearCall& call) {
  const Weight& w = *call.weight;
  const Activations x = reserve_activations(w, static_cast<int>(call.rows), max_rows(w));
  parallel_for(x.blocks(), [&](int block) { prepare_block(w, call.x, call.norm, call.eps, x, block); });
  const int blocks_per_item = std::max(1, kRowsPerItem / x.block_rows);
  const int chunks = (x.blocks() + blocks_per_item - 1) / blocks_per_item;
  const int pairs_per_item = std::max(1, w.pairs() * chunks / (num_threads() * kItemsPerThread));
  const int columns = (w.pairs() + pairs_per_item - 1) / pairs_per_item;
  parallel_for(chunks * columns, [&](int item) {
    const int begin = item / columns * blocks_per_item;
    const int first = item % columns * pairs_per_item;
    const int end = std::min(first + pairs_per_item, w.pairs());
    for (int pair = first; pair < end; ++pair) {
      // Threads take items in turn.
      const int next = pair + 1 < end ? pair + 1 : std::min(first + num_threads() * pairs_per_item, w.pairs() - 1);
      multiply_blocks(call, x, {w, pair, next, nullptr}, begin, std::min(begin + blocks_per_item, x.blocks()));
    }
  });
}

}  // namespace

void linear(const LinearCall& call) {
  for (int64_t row = 0; row < call.rows; row += kRowsAtOnce) {
    LinearCall block = call;
    const int64_t outputs = call.weight->outputs();
    block.rows = std::min<int64_t>(kRowsAtOnce, call.rows - row);
    block.x = call.x + row * call.weight->columns;
    block.out = call.out + row * outputs;
    if (call.residual != nullptr) block.residual = call.residual + row * outputs;
    multiply_rows(block);
  }
}

}  // namespace penstock
