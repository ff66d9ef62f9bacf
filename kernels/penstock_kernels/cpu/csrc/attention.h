// Causal attention of a step's tokens over the paged cache, their keys and values written first.
#pragma once

#include <cstdint>

#include "simd.h"

namespace penstock {

// Both mirrored by native_attention.py.
struct Step {
  const int32_t* positions;        // [tokens]
  const int32_t* query_start_loc;  // [requests + 1]
  const int32_t* seq_lens;         // [requests]
  const int32_t* rows;             // [requests]: batch index -> row of block_table
  const int32_t* block_table;      // [max_rows, max_blocks]
  const float* cos_sin;            // [max_position, rotary_dim]
  int32_t tokens;
  int32_t requests;
  int32_t max_rows;
  int32_t max_blocks;
  int32_t max_position;
  int32_t rotary_dim;
};

struct Cache {
  uint8_t* data;  // one layer: [num_blocks, kv_heads, 2, block_size, head_dim], strides in elements
  int64_t block_stride;
  int64_t head_stride;
  int64_t plane_stride;
  int64_t slot_stride;
  int32_t is_float;  // float32, else bfloat16
  int32_t num_blocks;
  int32_t kv_heads;
  int32_t block_size;
  int32_t head_dim;

  size_t unit() const { return is_float ? 4 : 2; }
  // Elements of a head behind which the padding of the library's own copies ends.
  int padded_dim() const { return (head_dim + 31) / 32 * 32; }
};

struct AttentionCall {
  const float* qkv;     // [tokens, (heads + 2 kv_heads) * head_dim]
  float* out;           // [tokens, heads * head_dim]
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;
  int32_t heads;
  int32_t sliding_window;  // 0: all keys
  float scale;
  float eps;
};

constexpr int kMaxHeadDim = 512;

void attention(const AttentionCall& call, const Step& step, const Cache& cache);

// The key of token `index` of the request in table row `row`, or null where its block does not exist.
uint8_t* find_slot(const Step& step, const Cache& cache, int row, int kv_head, int index);

// Writes the keys and values of all tokens and the rotated queries, in the cache's type:
// [kv_heads, tokens, heads / kv_heads, padded_dim].
void write_keys(const AttentionCall& call, const Step& step, const Cache& cache, uint8_t* queries);

// Bounds of a request that the caller may have got wrong: its tokens of this step lie in [0, tokens) and in its sequence.
struct Request {
  int row;
  int begin;    // first token of this step
  int count;    // tokens of this step
  int seq_len;  // with this step's
};
Request request_at(const Step& step, int index);

}  // namespace penstock
