#include "tiles.h"

namespace penstock {
namespace {

template <int R, bool IsPair>
void multiply(const FloatTiles& tiles, float* out) {
  const uint8_t* left = tiles.left;
  const uint8_t* right = tiles.right;
  const uint8_t* x = tiles.x;
  F32 a[R], b[R];
  for (int r = 0; r < R; ++r) a[r] = b[r] = splat(0.0f);
  for (int step = 0; step < tiles.steps; ++step, left += 64, right += 64, x += tiles.step_bytes) {
    if constexpr (IsPair) {
      const Bytes w0 = load_bytes(left), w1 = load_bytes(right);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Bytes both = splat_4_bytes(x + r * 4);
        a[r] = dot2(a[r], w0, both);
        b[r] = dot2(b[r], w1, both);
      }
    } else {
      const F32 w0 = load(reinterpret_cast<const float*>(left)), w1 = load(reinterpret_cast<const float*>(right));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const F32 value = splat(reinterpret_cast<const float*>(x)[r]);
        a[r] = fma(w0, value, a[r]);
        b[r] = fma(w1, value, b[r]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    store(out + r * kPairRows, a[r]);
    store(out + r * kPairRows + kLanes, b[r]);
  }
}

}  // namespace

void multiply_tiles(const FloatTiles& tiles, float* out) {
  with_rows<kMaxFloatRows>(tiles.count, [&]<int R>() {
    tiles.is_pair ? multiply<R, true>(tiles, out) : multiply<R, false>(tiles, out);
  });
}

void multiply_pair(const Pair& pair, const Activations& x, int block, float* out) {
  const Weight& w = pair.weight;
  if (w.rounds_activations && w.is_quantized()) return multiply_pair_integers(pair, x, block, out);
  const bool is_pair = w.rounds_activations;
  const uint8_t* left = is_pair ? w.tile(2 * pair.index) : reinterpret_cast<const uint8_t*>(pair.expanded);
  const int steps = is_pair ? (w.columns + 1) / 2 : w.columns;
  const uint8_t* right = left + static_cast<size_t>(steps) * 64;
  multiply_tiles({is_pair, left, right, x.block(block), x.step_bytes, steps, x.rows_of(block)}, out);
}

}  // namespace penstock
