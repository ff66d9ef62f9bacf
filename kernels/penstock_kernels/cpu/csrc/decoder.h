// A run of decoder layers in one call: between the layers and their parts nothing returns to Python.
#pragma once

#include "attention.h"
#include "weight.h"

namespace penstock {

// Both mirrored by native_decoder.py.
struct Layer {
  const float* input_norm;  // [hidden]
  const Weight* qkv;
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;
  const Weight* output;
  const float* mlp_norm;  // [hidden]
  const Weight* gate_up;  // gated
  const Weight* down;
  int32_t sliding_window;
  int32_t padding;
};

struct DecoderCall {
  float* hidden;  // [tokens, hidden]: read, and left with the last layer's output
  float* wide;    // [tokens, widest output of a layer's parts]
  float* narrow;  // [tokens, heads * head_dim]
  const Layer* layers;
  int64_t layer_bytes;  // of the cache, from one layer to the next
  int32_t count;
  int32_t heads;
  float scale;
  float eps;
};

// `cache` is that of the first layer.
void decode(const DecoderCall& call, const Step& step, const Cache& cache);

}  // namespace penstock
