#include "tiles.h"

namespace penstock {
namespace {

// `steps` vectors of two tiles, each with one 4-byte element of every row: a float32 or a pair of bfloat16.
template <int R, bool IsPair>
void multiply(const uint8_t* left, const uint8_t* right, int steps, const uint8_t* x, size_t row_bytes, float* out) {
  F32 a[R], b[R];
  for (int r = 0; r < R; ++r) a[r] = b[r] = splat(0.0f);
  for (int step = 0; step < steps; ++step) {
    const size_t at = static_cast<size_t>(step) * 64;
    if constexpr (IsPair) {
      const Bytes w0 = load_bytes(left + at), w1 = load_bytes(right + at);
      for (int r = 0; r < R; ++r) {
        uint32_t both;
        std::memcpy(&both, x + static_cast<size_t>(r) * row_bytes + static_cast<size_t>(step) * 4, 4);
        a[r] = dot2(a[r], w0, both);
        b[r] = dot2(b[r], w1, both);
      }
    } else {
      const F32 w0 = load(reinterpret_cast<const float*>(left + at)), w1 = load(reinterpret_cast<const float*>(right + at));
      for (int r = 0; r < R; ++r) {
        float value;
        std::memcpy(&value, x + static_cast<size_t>(r) * row_bytes + static_cast<size_t>(step) * 4, 4);
        a[r] = fma(w0, splat(value), a[r]);
        b[r] = fma(w1, splat(value), b[r]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    store(out + r * kPairRows, a[r]);
    store(out + r * kPairRows + kLanes, b[r]);
  }
}

}  // namespace

void multiply_tiles(bool is_pair, const uint8_t* left, const uint8_t* right, int steps, const uint8_t* x,
                    size_t row_bytes, int count, float* out) {
  with_rows<kMaxFloatRows>(count, [&]<int R>() {
    is_pair ? multiply<R, true>(left, right, steps, x, row_bytes, out)
            : multiply<R, false>(left, right, steps, x, row_bytes, out);
  });
}

void multiply_pair(const Weight& w, int pair, const float* expanded, const Activations& x, int first, int count,
                   float* out) {
  if (w.rounds_activations && w.is_quantized()) return multiply_pair_integers(w, pair, x, first, count, out);
  const uint8_t* rows = x.values + static_cast<size_t>(first) * x.row_bytes;
  const bool is_pair = w.rounds_activations;
  const uint8_t* left = is_pair ? w.tile(2 * pair) : reinterpret_cast<const uint8_t*>(expanded);
  const int steps = is_pair ? (w.columns + 1) / 2 : w.columns;
  multiply_tiles(is_pair, left, left + static_cast<size_t>(steps) * 64, steps, rows, x.row_bytes, count, out);
}

}  // namespace penstock
