#include "decoder.h"

#include "linear.h"

namespace penstock {

void decode(const DecoderCall& call, const Step& step, const Cache& cache) {
  Cache own = cache;
  float* hidden = call.hidden;
  for (int i = 0; i < call.count; ++i) {
    const Layer& layer = call.layers[i];
    const int64_t rows = step.tokens;
    linear({hidden, layer.qkv, layer.input_norm, nullptr, call.wide, rows, call.eps});
    attention({call.wide, call.narrow, layer.q_norm, layer.k_norm, call.heads, layer.sliding_window, call.scale, call.eps},
              step, own);
    linear({call.narrow, layer.output, nullptr, hidden, hidden, rows, call.eps});
    linear({hidden, layer.gate_up, layer.mlp_norm, nullptr, call.wide, rows, call.eps});
    linear({call.wide, layer.down, nullptr, hidden, hidden, rows, call.eps});
    own.data += call.layer_bytes;
  }
}

}  // namespace penstock
