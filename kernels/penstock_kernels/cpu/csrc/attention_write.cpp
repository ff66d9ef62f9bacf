#include <algorithm>
#include <cstring>

#include "activations.h"
#include "attention.h"
#include "pool.h"

namespace penstock {
namespace {

constexpr int kTokensToWriteInParallel = 4;

// Rotates the first `rotary_dim` elements of a head, whose halves lie apart.
void rotate(float* head, const float* cos_sin, int rotary_dim) {
  const int half = rotary_dim / 2;
  for (int i = 0; i < half; i += kLanes) {
    const int count = std::min(kLanes, half - i);
    const F32 first = load_some(head + i, count), second = load_some(head + half + i, count);
    const F32 cos = load_some(cos_sin + i, count), sin = load_some(cos_sin + half + i, count);
    store_some(head + i, sub(mul(first, cos), mul(second, sin)), count);
    store_some(head + half + i, add(mul(second, cos), mul(first, sin)), count);
  }
}

void store_head(const float* head, int head_dim, bool is_float, uint8_t* out) {
  if (is_float) {
    std::memcpy(out, head, static_cast<size_t>(head_dim) * sizeof(float));
    return;
  }
  uint16_t* target = reinterpret_cast<uint16_t*>(out);
  int i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) store_bf16(target + i, load(head + i));
  if (i < head_dim) {
    uint16_t rest[kLanes];
    store_bf16(rest, load_some(head + i, head_dim - i));
    std::memcpy(target + i, rest, static_cast<size_t>(head_dim - i) * 2);
  }
}

struct Token {
  int token;
  const float* qkv;
  const float* cos_sin;
  int row;
  int index;  // in its sequence
};

void write_token(const AttentionCall& call, const Step& step, const Cache& cache, const Token& token,
                 uint8_t* queries) {
  const int dim = cache.head_dim, group = call.heads / cache.kv_heads;
  const size_t padded = static_cast<size_t>(cache.padded_dim()) * cache.unit();
  for (int h = 0; h < call.heads + cache.kv_heads; ++h) {
    const bool is_query = h < call.heads;
    const float* norm = is_query ? call.q_norm : call.k_norm;
    float head[kMaxHeadDim];
    if (norm != nullptr) {
      rms_norm_row(token.qkv + h * dim, norm, call.eps, dim, head);
    } else {
      std::memcpy(head, token.qkv + h * dim, static_cast<size_t>(dim) * sizeof(float));
    }
    rotate(head, token.cos_sin, step.rotary_dim);
    if (is_query) {
      const int row = (h / group * step.tokens + token.token) * group + h % group;
      uint8_t* out = queries + static_cast<size_t>(row) * padded;
      std::memset(out, 0, padded);
      store_head(head, dim, cache.is_float, out);
      continue;
    }
    uint8_t* slot = find_slot(step, cache, token.row, h - call.heads, token.index);
    if (slot == nullptr) continue;
    store_head(head, dim, cache.is_float, slot);
    const float* value = token.qkv + (h + cache.kv_heads) * dim;
    store_head(value, dim, cache.is_float, slot + cache.plane_stride * static_cast<int64_t>(cache.unit()));
  }
}

}  // namespace

Request request_at(const Step& step, int index) {
  Request r{};
  r.row = step.rows[index];
  r.begin = std::clamp(step.query_start_loc[index], 0, step.tokens);
  r.count = std::clamp(step.query_start_loc[index + 1], r.begin, step.tokens) - r.begin;
  r.seq_len = std::max(0, step.seq_lens[index]);
  if (r.count > r.seq_len || r.row < 0 || r.row >= step.max_rows) r.count = 0;
  return r;
}

uint8_t* find_slot(const Step& step, const Cache& cache, int row, int kv_head, int index) {
  const int column = index / cache.block_size;
  if (column >= step.max_blocks) return nullptr;
  const int32_t block = step.block_table[static_cast<int64_t>(row) * step.max_blocks + column];
  if (block < 0 || block >= cache.num_blocks) return nullptr;
  const int64_t at = block * cache.block_stride + kv_head * cache.head_stride + index % cache.block_size * cache.slot_stride;
  return cache.data + at * static_cast<int64_t>(cache.unit());
}

void write_keys(const AttentionCall& call, const Step& step, const Cache& cache, uint8_t* queries) {
  const int width = (call.heads + 2 * cache.kv_heads) * cache.head_dim;
  for (int index = 0; index < step.requests; ++index) {
    const Request r = request_at(step, index);
    const auto write = [&](int i) {
      const int token = r.begin + i;
      const int position = std::clamp(step.positions[token], 0, step.max_position - 1);
      const float* cos_sin = step.cos_sin + static_cast<int64_t>(position) * step.rotary_dim;
      const Token source{token, call.qkv + static_cast<int64_t>(token) * width, cos_sin, r.row, r.seq_len - r.count + i};
      write_token(call, step, cache, source, queries);
    };
    if (r.count < kTokensToWriteInParallel) {
      for (int i = 0; i < r.count; ++i) write(i);
    } else {
      parallel_for(r.count, write);
    }
  }
}

}  // namespace penstock
