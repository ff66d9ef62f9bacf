#include "attention.h"

#include <algorithm>
#include <vector>

#include "attention_keys.h"
#include "pool.h"
#include "scratch.h"
#include "tiles.h"

namespace penstock {
namespace {

constexpr int kQueryRowsPerItem = 48;  // (query, head) rows that share one read of the keys
constexpr int kRunsPerThread = 4;
constexpr int kKeysToPrefetch = 6;  // at a time, while a tile is packed
constexpr float kLowest = -1e30f;

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

// The next keys for all rows of an item; those of the step to come are asked for on the way.
void take_step(const Shared& shared, const Workspace& w, const Place& place, Keys* at, const Keys& next) {
  const Cache& cache = shared.cache;
  const int tiles = (place.live() + kLanes - 1) / kLanes;
  Prefetch prefetch(cache, next);
  pad_rows(cache, w.rows, at->keys);
  for (int tile = 0; tile < tiles; ++tile) {
    pack_keys(cache, at->keys, tile, w.keys);
    prefetch.next(kKeysToPrefetch);
  }
  pad_rows(cache, w.rows, at->values);
  for (int tile = 0; tile < tiles; ++tile) {
    pack_values(cache, at->values, tile, w.values);
    prefetch.next(kKeysToPrefetch);
  }
  score_keys(shared, *place.item, w, tiles);
  prefetch.next(kKeys);
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

// Items [item, end), one after the other; each step begins by finding the keys of the next one.
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
    take_step(shared, w, place, &keys[turn], found.item < end ? keys[turn ^ 1] : keys[turn]);
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
  const int at_once = std::max(1, kQueryRowsPerItem / shared.group());
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
