// The keys and values that one step of attention reads, found in the paged cache and packed as tiles.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention.h"

namespace penstock {

// Keys of one step of the online softmax. Steps begin at multiples of it in the sequence, so that a query's result does
// not depend on the chunk that it came in.
constexpr int kKeys = 64;
constexpr int kTilesOfKeys = kKeys / kLanes;

// Queries [first, first + count) of a request, for all heads of one KV head.
struct Item {
  Request request;
  int first;
  int count;
  int kv_head;
};

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

// Where the keys of a step lie.
void find_keys(const Step& step, const Cache& cache, const Place& place, Keys* out);

// Asks for the keys and values of a step, some at a time, for the second-level cache: a core keeps only some tens of reads
// in flight, and would wait for room if all were asked for at once.
class Prefetch {
 public:
  Prefetch(const Cache& cache, const Keys& keys)
      : keys_(keys), bytes_(cache.head_dim * static_cast<int>(cache.unit())) {}

  void next(int count) {
    for (const int end = std::min(done_ + count, kKeys); done_ < end; ++done_) {
      for (int line = 0; line < bytes_; line += 64) {
        __builtin_prefetch(keys_.keys[done_] + line, 0, 2);
        __builtin_prefetch(keys_.values[done_] + line, 0, 2);
      }
    }
  }

 private:
  const Keys& keys_;
  int bytes_;
  int done_ = 0;
};

// Where a head is shorter than the padded length, replaces the rows by copies with zeros behind.
void pad_rows(const Cache& cache, uint8_t* copies, const uint8_t** rows);

// The 16 keys of tile `tile`: out [4][steps of a key][16] of 4 bytes.
void pack_keys(const Cache& cache, const uint8_t* const* rows, int tile, uint8_t* out);

// The 16 values of tile `tile`: out [padded_dim / 16][steps of 64 keys][16] of 4 bytes.
void pack_values(const Cache& cache, const uint8_t* const* rows, int tile, uint8_t* out);

// Turns `count` rows of 4-byte elements into [steps][16]: what multiply_tiles reads, with 64 bytes to a step.
void interleave_rows(const uint8_t* rows, size_t row_bytes, int count, int steps, uint8_t* out);

}  // namespace penstock
