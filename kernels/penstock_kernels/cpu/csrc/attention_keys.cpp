#include "attention_keys.h"

#include <cstring>

namespace penstock {
namespace {

alignas(64) constexpr uint8_t kZeros[kMaxHeadDim * 4] = {};

}  // namespace

void find_keys(const Step& step, const Cache& cache, const Place& place, Keys* out) {
  const int64_t unit = static_cast<int64_t>(cache.unit());
  const int live = place.live();
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
      slot += cache.slot_stride * unit;
    }
  }
}

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

void pack_keys(const Cache& cache, const uint8_t* const* rows, int tile, uint8_t* out) {
  const int steps = cache.padded_dim() * static_cast<int>(cache.unit()) / 4;
  const uint32_t* lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = reinterpret_cast<const uint32_t*>(rows[tile * kLanes + i]);
  uint32_t* target = reinterpret_cast<uint32_t*>(out) + tile * steps * kLanes;
  for (int step = 0; step < steps; step += kLanes) transpose16(lanes, step, target + step * kLanes, kLanes);
}

void pack_values(const Cache& cache, const uint8_t* const* rows, int tile, uint8_t* out) {
  const int dim = cache.padded_dim();
  if (cache.is_float) {
    for (int key = tile * kLanes; key < (tile + 1) * kLanes; ++key) {
      const float* row = reinterpret_cast<const float*>(rows[key]);
      for (int i = 0; i < dim; i += kLanes) {
        store(reinterpret_cast<float*>(out) + (i / kLanes * kKeys + key) * kLanes, load(row + i));
      }
    }
    return;
  }
  for (int pair = tile * kLanes / 2; pair < (tile + 1) * kLanes / 2; ++pair) {
    const uint16_t* even = reinterpret_cast<const uint16_t*>(rows[2 * pair]);
    const uint16_t* odd = reinterpret_cast<const uint16_t*>(rows[2 * pair + 1]);
    for (int i = 0; i < dim; i += kLanes) {
      store_bytes(out + static_cast<size_t>((i / kLanes * (kKeys / 2) + pair) * 64), interleave16(even + i, odd + i));
    }
  }
}

void interleave_rows(const uint8_t* rows, size_t row_bytes, int count, int steps, uint8_t* out) {
  const uint32_t* lanes[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    lanes[r] = reinterpret_cast<const uint32_t*>(rows + static_cast<size_t>(std::min(r, count - 1)) * row_bytes);
  }
  for (int step = 0; step < steps; step += kLanes) {
    transpose16(lanes, step, reinterpret_cast<uint32_t*>(out) + step * kLanes, kLanes);
  }
}

}  // namespace penstock
