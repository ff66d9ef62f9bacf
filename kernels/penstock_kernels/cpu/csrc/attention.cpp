#include "attention.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "pool.h"
#include "scratch.h"
#include "tiles.h"

namespace penstock {
namespace {

// Keys of one step of the online softmax. Steps begin at multiples of it in the sequence, so that a query's result does
// not depend on the chunk that it came in.
constexpr int kKeys = 64;
constexpr int kTilesOfKeys = kKeys / kLanes;
constexpr int kRowsPerItem = 48;  // (query, head) rows that share one read of the keys
constexpr int kRunsPerThread = 4;
constexpr float kLowest = -1e30f;

// Queries [first, first + count) of a request, for all heads of one KV head.
struct Item {
  Request request;
  int first;
  int count;
  int kv_head;
};

// Working memory of one item; rows are (query, head of the group).
struct Workspace {
  uint8_t* keys;     // [4][steps of a key][16] of 4 bytes: tiles of 16 keys
  uint8_t* values;   // [padded_dim / 16][steps of 64 keys][16] of 4 bytes
  uint8_t* rows;     // [64][padded_dim]: copies, where a head's length needs padding
  uint8_t* queries;  // [rows / kMaxFloatRows][steps of a query][16] of 4 bytes
  uint8_t* block;    // [steps of 64 keys][16] of 4 bytes: weights of up to kMaxFloatRows rows
  float* scores;     // [2][rows][32]
  uint8_t* weights;  // [rows][64] in the cache's type
  float* out;        // [rows][padded_dim]
  float* highest;    // [rows]
  float* total;      // [rows]
  float* decay;      // [rows]
};

Workspace lay_out(const Cache& cache, int rows) {
  const size_t dim = static_cast<size_t>(cache.padded_dim()), unit = cache.unit();
  const size_t count = static_cast<size_t>(rows + kMaxFloatRows + 15) / 16 * 16;  // tiles write whole sets of rows
  const size_t keys = kKeys * dim * unit, blocks = static_cast<size_t>(rows + kMaxFloatRows - 1) / kMaxFloatRows;
  uint8_t* memory = thread_scratch(3 * keys + blocks * dim * unit * kLanes + kKeys * unit * kLanes +
                                   count * (2 * 32 * 4 + kKeys * unit + dim * 4 + 3 * 4));
  Workspace w{};
  const auto take = [&memory](size_t bytes) {
    uint8_t* part = memory;
    memory += bytes;
    return part;
  };
  w.keys = take(keys);
  w.values = take(keys);
  w.rows = take(keys);
  w.queries = take(blocks * dim * unit * kLanes);
  w.block = take(kKeys * unit * kLanes);
  w.scores = reinterpret_cast<float*>(take(count * 2 * 32 * 4));
  w.weights = take(count * kKeys * unit);
  w.out = reinterpret_cast<float*>(take(count * dim * 4));
  w.highest = reinterpret_cast<float*>(take(count * 4));
  w.total = reinterpret_cast<float*>(take(count * 4));
  w.decay = reinterpret_cast<float*>(take(count * 4));
  return w;
}

alignas(64) constexpr uint8_t kZeros[kMaxHeadDim * 4] = {};

// Where 64 keys and values lie; zeros stand in for those that do not exist.
struct Keys {
  uint64_t found;  // bit i: key i exists
  const uint8_t* keys[kKeys];
  const uint8_t* values[kKeys];
};

// One step of the online softmax: keys [begin, begin + 64) for all rows of an item.
struct Place {
  const Item* item;
  int begin;

  int first_position() const { return item->request.seq_len - item->request.count + item->first; }
  int end() const { return first_position() + item->count; }
  int live() const { return std::min(kKeys, end() - begin); }
};

// Finds the keys of a step, and asks for them: what they fetch is needed one step later.
void find_keys(const Step& step, const Cache& cache, const Place& place, Keys* out) {
  const int64_t unit = static_cast<int64_t>(cache.unit());
  const int bytes = cache.head_dim * static_cast<int>(unit), live = place.live();
  out->found = 0;
  for (int i = 0; i < kKeys;) {
    const int offset = (place.begin + i) % cache.block_size;
    const int run = i < live ? std::min(live - i, cache.block_size - offset) : kKeys - i;
    const uint8_t* slot =
        i < live ? find_slot(step, cache, place.item->request.row, place.item->kv_head, place.begin + i) : nullptr;
    for (int end = i + run; i < end; ++i) {
      out->keys[i] = out->values[i] = kZeros;
      if (slot == nullptr) continue;
      out->found |= uint64_t{1} << i;
      out->keys[i] = slot;
      out->values[i] = slot + cache.plane_stride * unit;
      for (int line = 0; line < bytes; line += 64) {
        __builtin_prefetch(out->keys[i] + line);
        __builtin_prefetch(out->values[i] + line);
      }
      slot += cache.slot_stride * unit;
    }
  }
}

// Where a head is shorter than the padded length, replaces the rows by copies with zeros behind.
void pad_rows(const Cache& cache, uint8_t* copies, const uint8_t** rows) {
  const size_t bytes = static_cast<size_t>(cache.head_dim) * cache.unit();
  const size_t padded = static_cast<size_t>(cache.padded_dim()) * cache.unit();
  if (bytes == padded) return;
  for (int i = 0; i < kKeys; ++i) {
    uint8_t* copy = copies + static_cast<size_t>(i) * padded;
    std::memcpy(copy, rows[i], bytes);
    std::memset(copy + bytes, 0, padded - bytes);
    rows[i] = copy;
  }
}

void pack_keys(const Cache& cache, const uint8_t* const* rows, int tiles, uint8_t* out) {
  const int steps = cache.padded_dim() * static_cast<int>(cache.unit()) / 4;
  for (int tile = 0; tile < tiles; ++tile) {
    const uint32_t* lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) lanes[i] = reinterpret_cast<const uint32_t*>(rows[tile * kLanes + i]);
    uint32_t* target = reinterpret_cast<uint32_t*>(out) + tile * steps * kLanes;
    for (int step = 0; step < steps; step += kLanes) transpose16(lanes, step, target + step * kLanes, kLanes);
  }
}

void pack_values(const Cache& cache, const uint8_t* const* rows, int tiles, uint8_t* out) {
  const int dim = cache.padded_dim();
  if (cache.is_float) {
    for (int key = 0; key < tiles * kLanes; ++key) {
      const float* row = reinterpret_cast<const float*>(rows[key]);
      for (int i = 0; i < dim; i += kLanes) {
        store(reinterpret_cast<float*>(out) + (i / kLanes * kKeys + key) * kLanes, load(row + i));
      }
    }
    return;
  }
  for (int pair = 0; pair < tiles * kLanes / 2; ++pair) {
    const uint16_t* even = reinterpret_cast<const uint16_t*>(rows[2 * pair]);
    const uint16_t* odd = reinterpret_cast<const uint16_t*>(rows[2 * pair + 1]);
    for (int i = 0; i < dim; i += kLanes) {
      store_bytes(out + static_cast<size_t>((i / kLanes * (kKeys / 2) + pair) * 64), interleave16(even + i, odd + i));
    }
  }
}

// Turns `count` rows of 4-byte elements into [steps][16]: what multiply_tiles reads, with 64 bytes to a step.
void interleave_rows(const uint8_t* rows, size_t row_bytes, int count, int steps, uint8_t* out) {
  const uint32_t* lanes[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    lanes[r] = reinterpret_cast<const uint32_t*>(rows + static_cast<size_t>(std::min(r, count - 1)) * row_bytes);
  }
  for (int step = 0; step < steps; step += kLanes) {
    transpose16(lanes, step, reinterpret_cast<uint32_t*>(out) + step * kLanes, kLanes);
  }
}

// One row's step of the online softmax over the scores of the keys whose bit is set.
void update_row(const Cache& cache, const Workspace& w, int row, int rows, uint64_t mask, float scale) {
  F32 s[kTilesOfKeys];
  F32 largest = splat(kLowest);
  for (int i = 0; i < kTilesOfKeys; ++i) {
    const uint32_t bits = static_cast<uint32_t>(mask >> (i * kLanes)) & 0xffff;
    s[i] = splat(kLowest);
    if (bits == 0) continue;
    const float* scores = w.scores + (i / 2 * rows + row) * kPairRows + i % 2 * kLanes;
    s[i] = select(bits, mul(load(scores), splat(scale)), s[i]);
    largest = max_f32(largest, s[i]);
  }
  const float highest = std::max(w.highest[row], reduce_max(largest));
  F32 sum = splat(0.0f);
  for (int i = 0; i < kTilesOfKeys; ++i) {
    const uint32_t bits = static_cast<uint32_t>(mask >> (i * kLanes)) & 0xffff;
    const F32 weight = bits == 0 ? splat(0.0f) : select(bits, exp_f32(sub(s[i], splat(highest))), splat(0.0f));
    sum = add(sum, weight);
    const int at = row * kKeys + i * kLanes;
    if (cache.is_float) {
      store(reinterpret_cast<float*>(w.weights) + at, weight);
    } else {
      store_bf16(reinterpret_cast<uint16_t*>(w.weights) + at, weight);
    }
  }
  float decay[kLanes];
  store(decay, exp_f32(splat(w.highest[row] - highest)));
  w.decay[row] = decay[0];
  w.total[row] = w.total[row] * decay[0] + reduce_add(sum);
  w.highest[row] = highest;
}

// out = out * decay + weights x values
void add_values(const Cache& cache, const Workspace& w, int rows, int tiles) {
  const int dim = cache.padded_dim();
  const int all_steps = kKeys * static_cast<int>(cache.unit()) / 4;
  const int steps = all_steps * tiles / kTilesOfKeys;
  for (int row = 0; row < rows; row += kMaxFloatRows) {
    const int count = std::min(kMaxFloatRows, rows - row);
    const size_t row_bytes = static_cast<size_t>(all_steps) * 4;
    interleave_rows(w.weights + static_cast<size_t>(row) * row_bytes, row_bytes, count, steps, w.block);
    for (int column = 0; column < dim; column += kPairRows) {
      const uint8_t* left = w.values + static_cast<size_t>(column / kLanes * all_steps) * 64;
      alignas(64) float products[kMaxFloatRows * kPairRows];
      multiply_tiles({!cache.is_float, left, left + static_cast<size_t>(all_steps) * 64, w.block, 64, steps, count}, products);
      for (int r = 0; r < count; ++r) {
        float* out = w.out + (row + r) * dim + column;
        const F32 decay = splat(w.decay[row + r]);
        for (int i = 0; i < kPairRows; i += kLanes) {
          store(out + i, fma(load(out + i), decay, load(products + r * kPairRows + i)));
        }
      }
    }
  }
}

// Bits of the keys [begin, begin + 64) that a query at `position` sees.
uint64_t seen_keys(int begin, int position, int sliding_window) {
  const int end = std::clamp(position + 1 - begin, 0, kKeys);
  const int first = sliding_window == 0 ? 0 : std::clamp(position + 1 - sliding_window - begin, 0, kKeys);
  const auto below = [](int n) { return n == kKeys ? ~uint64_t{0} : (uint64_t{1} << n) - 1; };
  return below(end) & ~below(first);
}

// What the items of one call share.
struct Shared {
  const AttentionCall& call;
  const Step& step;
  const Cache& cache;
  const uint8_t* queries;

  int group() const { return call.heads / cache.kv_heads; }
  size_t row_bytes() const { return static_cast<size_t>(cache.padded_dim()) * cache.unit(); }
};

// scores [2][rows][32] of the item's rows with the packed keys.
void score_keys(const Shared& shared, const Item& item, const Workspace& w, int tiles) {
  const int rows = item.count * shared.group();
  const int steps = static_cast<int>(shared.row_bytes() / 4);
  for (int half = 0; half < (tiles + 1) / 2; ++half) {
    const uint8_t* left = w.keys + static_cast<size_t>(2 * half * steps) * 64;
    const uint8_t* right = left + static_cast<size_t>(steps) * 64;
    for (int row = 0; row < rows; row += kMaxFloatRows) {
      const uint8_t* queries = w.queries + static_cast<size_t>(row / kMaxFloatRows * steps) * 64;
      const int count = std::min(kMaxFloatRows, rows - row);
      multiply_tiles({!shared.cache.is_float, left, right, queries, 64, steps, count}, w.scores + (half * rows + row) * kPairRows);
    }
  }
}

// The next keys for all rows of an item.
void take_step(const Shared& shared, const Workspace& w, const Place& place, Keys* at) {
  const Cache& cache = shared.cache;
  const int tiles = (place.live() + kLanes - 1) / kLanes;
  pad_rows(cache, w.rows, at->keys);
  pack_keys(cache, at->keys, tiles, w.keys);
  pad_rows(cache, w.rows, at->values);
  pack_values(cache, at->values, tiles, w.values);
  score_keys(shared, *place.item, w, tiles);
  const int rows = place.item->count * shared.group();
  for (int row = 0; row < rows; ++row) {
    const int position = place.first_position() + row / shared.group();
    const uint64_t mask = at->found & seen_keys(place.begin, position, shared.call.sliding_window);
    update_row(cache, w, row, rows, mask, shared.call.scale);
  }
  add_values(cache, w, rows, tiles);
}

void begin_item(const Shared& shared, const Item& item, const Workspace& w) {
  const int rows = item.count * shared.group();
  std::fill_n(w.out, rows * shared.cache.padded_dim(), 0.0f);
  std::fill_n(w.total, rows, 0.0f);
  std::fill_n(w.highest, rows, kLowest);
  const size_t row_bytes = shared.row_bytes();
  const int token = item.kv_head * shared.step.tokens + item.request.begin + item.first;
  const uint8_t* queries = shared.queries + static_cast<size_t>(token * shared.group()) * row_bytes;
  for (int row = 0; row < rows; row += kMaxFloatRows) {
    interleave_rows(queries + static_cast<size_t>(row) * row_bytes, row_bytes, std::min(kMaxFloatRows, rows - row),
                    static_cast<int>(row_bytes / 4), w.queries + static_cast<size_t>(row / kMaxFloatRows) * row_bytes * kLanes);
  }
}

void end_item(const Shared& shared, const Item& item, const Workspace& w) {
  const int dim = shared.cache.head_dim, group = shared.group();
  for (int row = 0; row < item.count * group; ++row) {
    const int64_t token = item.request.begin + item.first + row / group;
    const int head = item.kv_head * group + row % group;
    float* out = shared.call.out + (token * shared.call.heads + head) * dim;
    const F32 factor = splat(w.total[row] > 0.0f ? 1.0f / w.total[row] : 0.0f);
    for (int i = 0; i < dim; i += kLanes) {
      const F32 value = mul(load(w.out + row * shared.cache.padded_dim() + i), factor);
      store_some(out + i, value, std::min(kLanes, dim - i));
    }
  }
}

Place first_place(const Shared& shared, const Item* item) {
  const int window = shared.call.sliding_window;
  const Place place{item, 0};
  const int lowest = window == 0 ? 0 : std::max(0, place.first_position() + 1 - window);
  return {item, lowest / kKeys * kKeys};
}

// Items [item, end), one after the other; each step finds the keys of the next one first, so that they are on their way.
void attend(const Shared& shared, const Item* item, const Item* end) {
  Keys keys[2];
  Place place = first_place(shared, item);
  find_keys(shared.step, shared.cache, place, &keys[0]);
  int most_rows = 0;
  for (const Item* i = item; i < end; ++i) most_rows = std::max(most_rows, i->count * shared.group());
  const Workspace w = lay_out(shared.cache, most_rows);
  begin_item(shared, *item, w);
  for (int turn = 0; place.item < end; turn ^= 1) {
    const bool is_last = place.begin + kKeys >= place.end();
    const Place next = is_last ? Place{place.item + 1, 0} : Place{place.item, place.begin + kKeys};
    const Place found = is_last && next.item < end ? first_place(shared, next.item) : next;
    if (found.item < end) find_keys(shared.step, shared.cache, found, &keys[turn ^ 1]);
    take_step(shared, w, place, &keys[turn]);
    if (is_last) {
      end_item(shared, *place.item, w);
      if (found.item < end) begin_item(shared, *found.item, w);
    }
    place = found;
  }
}

// Late queries first: they see the most keys, and the last item should be a small one.
std::vector<Item> list_items(const Shared& shared) {
  std::vector<Item> items;
  const int at_once = std::max(1, kRowsPerItem / shared.group());
  for (int index = 0; index < shared.step.requests; ++index) {
    const Request request = request_at(shared.step, index);
    for (int first = (request.count - 1) / at_once * at_once; request.count > 0 && first >= 0; first -= at_once) {
      const int count = std::min(at_once, request.count - first);
      for (int kv_head = 0; kv_head < shared.cache.kv_heads; ++kv_head) items.push_back({request, first, count, kv_head});
    }
  }
  return items;
}

}  // namespace

void attention(const AttentionCall& call, const Step& step, const Cache& cache) {
  const size_t row_bytes = static_cast<size_t>(cache.padded_dim()) * cache.unit();
  uint8_t* queries = scratch(static_cast<size_t>(step.tokens) * static_cast<size_t>(call.heads) * row_bytes);
  write_keys(call, step, cache, queries);
  const Shared shared{call, step, cache, queries};
  const std::vector<Item> items = list_items(shared);
  int covered = 0;
  for (const Item& item : items) covered += item.kv_head == 0 ? item.count : 0;
  if (covered < step.tokens) {
    std::fill_n(call.out, static_cast<int64_t>(step.tokens) * call.heads * cache.head_dim, 0.0f);
  }
  // Decoding many requests has many small items: a few in a row, so that one's end overlaps the next one's reads.
  const int count = static_cast<int>(items.size());
  const int at_once = step.tokens > step.requests ? 1 : std::max(1, count / (num_threads() * kRunsPerThread));
  parallel_for((count + at_once - 1) / at_once, [&](int run) {
    const int first = run * at_once;
    attend(shared, items.data() + first, items.data() + std::min(count, first + at_once));
  });
}

}  // namespace penstock
