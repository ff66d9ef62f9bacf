#include "weight.h"

#include <cstring>

#include "pool.h"

namespace penstock {
namespace {

template <typename T>
void pack_floats(const Weight& w, const T* source, int64_t tile, int per_lane, T* target) {
  const int steps = (w.columns + per_lane - 1) / per_lane;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t row = w.row_of(tile, lane);
    for (int step = 0; step < steps; ++step) {
      for (int i = 0; i < per_lane; ++i) {
        const int column = step * per_lane + i;
        const bool exists = row >= 0 && column < w.columns;
        target[(step * kLanes + lane) * per_lane + i] = exists ? source[row * w.columns + column] : T{};
      }
    }
  }
}

// The 32 integers of group `group` of `row`, one to a byte.
void read_group(const Weight& w, const uint8_t* source, int64_t row, int group, uint8_t* out) {
  if (w.kind == kInt8) {
    std::memcpy(out, source + row * w.columns + group * kGroup, kGroup);
    return;
  }
  const uint8_t* nibbles = source + (row * w.columns + group * kGroup) / 2;
  for (int i = 0; i < kGroup / 2; ++i) {
    out[2 * i] = nibbles[i] & 15;
    out[2 * i + 1] = nibbles[i] >> 4;
  }
}

void pack_integers(const Weight& w, const PackSource& source, int64_t tile, uint8_t* target) {
  const size_t unit = w.has_float_scales ? 4 : 2;
  uint8_t* scales = target + static_cast<size_t>(w.groups()) * static_cast<size_t>(w.group_bytes());
  uint8_t* minimums = scales + static_cast<size_t>(w.groups()) * kLanes * unit;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t row = w.row_of(tile, lane);
    for (int group = 0; row >= 0 && group < w.groups(); ++group) {
      uint8_t integers[kGroup];
      read_group(w, static_cast<const uint8_t*>(source.values), row, group, integers);
      uint8_t* out = target + static_cast<size_t>(group) * static_cast<size_t>(w.group_bytes()) + lane * 4;
      for (int chunk = 0; chunk < (w.kind == kInt4 ? 4 : 8); ++chunk) {
        for (int byte = 0; byte < 4; ++byte) {
          const uint8_t low = integers[chunk * 4 + byte];
          out[chunk * 64 + byte] =
              w.kind == kInt4 ? static_cast<uint8_t>(low | integers[(chunk + 4) * 4 + byte] << 4) : low;
        }
      }
      const size_t from = static_cast<size_t>(row * w.groups() + group) * unit;
      const size_t to = static_cast<size_t>(group * kLanes + lane) * unit;
      std::memcpy(scales + to, static_cast<const uint8_t*>(source.scales) + from, unit);
      if (!w.is_symmetric) std::memcpy(minimums + to, static_cast<const uint8_t*>(source.minimums) + from, unit);
    }
  }
}

F32 scales_of_group(const Weight& w, const uint8_t* scales, int group) {
  const uint8_t* p = scales + static_cast<size_t>(group * w.scale_bytes());
  return w.has_float_scales ? load(reinterpret_cast<const float*>(p)) : load_f16(reinterpret_cast<const uint16_t*>(p));
}

// The 32 columns of one group as float32: [32][16].
void expand_group(const Weight& w, const uint8_t* tile, int group, float* out) {
  const uint8_t* scales = w.scales(tile);
  const F32 scale = scales_of_group(w, scales, group);
  const uint8_t* minimums = scales + static_cast<size_t>(w.groups() * w.scale_bytes());
  const F32 minimum = w.is_symmetric ? mul(scale, splat(-128.0f)) : scales_of_group(w, minimums, group);
  const uint8_t* bytes = tile + static_cast<size_t>(group) * static_cast<size_t>(w.group_bytes());
  for (int chunk = 0; chunk < 8; ++chunk) {
    Bytes four;
    if (w.kind == kInt8) {
      four = load_bytes(bytes + chunk * 64);
    } else {
      const Bytes both = load_bytes(bytes + chunk % 4 * 64);
      four = chunk < 4 ? low_nibbles(both) : high_nibbles(both);
    }
    for (int i = 0; i < 4; ++i) store(out + (chunk * 4 + i) * kLanes, fma(byte_to_f32(four, i), scale, minimum));
  }
}

}  // namespace

void pack_weight(const Weight& w, const PackSource& source, uint8_t* target) {
  parallel_for(w.pairs() * 2, [&](int tile) {
    uint8_t* out = target + static_cast<size_t>(tile) * w.tile_bytes();
    std::memset(out, 0, w.tile_bytes());
    if (w.kind == kFloat32) {
      pack_floats(w, static_cast<const float*>(source.values), tile, 1, reinterpret_cast<float*>(out));
    } else if (w.kind == kBFloat16) {
      pack_floats(w, static_cast<const uint16_t*>(source.values), tile, 2, reinterpret_cast<uint16_t*>(out));
    } else {
      pack_integers(w, source, tile, out);
    }
  });
}

void expand_tile(const Weight& w, int64_t index, float* out) {
  const uint8_t* tile = w.tile(index);
  if (w.kind == kBFloat16) {
    for (int step = 0; step < (w.columns + 1) / 2; ++step) {
      const Bytes both = load_bytes(tile + static_cast<size_t>(step) * 64);
      store(out + static_cast<size_t>(2 * step) * kLanes, low_bf16(both));
      if (2 * step + 1 < w.columns) store(out + static_cast<size_t>(2 * step + 1) * kLanes, high_bf16(both));
    }
  } else {
    for (int group = 0; group < w.groups(); ++group) {
      expand_group(w, tile, group, out + static_cast<size_t>(group) * kGroup * kLanes);
    }
  }
}

void expand_row(const Weight& w, int64_t row, float* out) {
  const uint8_t* tile = w.tile(row / kLanes);
  const int lane = static_cast<int>(row % kLanes);
  if (w.kind == kFloat32) {
    for (int k = 0; k < w.columns; ++k) out[k] = reinterpret_cast<const float*>(tile)[k * kLanes + lane];
  } else if (w.kind == kBFloat16) {
    for (int k = 0; k < w.columns; ++k) {
      const uint16_t value = reinterpret_cast<const uint16_t*>(tile)[(k / 2 * kLanes + lane) * 2 + k % 2];
      const uint32_t bits = static_cast<uint32_t>(value) << 16;
      std::memcpy(out + k, &bits, sizeof bits);
    }
  } else {
    float columns[kGroup * kLanes];
    for (int group = 0; group < w.groups(); ++group) {
      expand_group(w, tile, group, columns);
      for (int i = 0; i < kGroup; ++i) out[group * kGroup + i] = columns[i * kLanes + lane];
    }
  }
}

}  // namespace penstock
