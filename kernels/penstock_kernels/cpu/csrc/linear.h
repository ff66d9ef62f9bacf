// x [rows, columns] times a packed weight, with what surrounds it in a transformer.
#pragma once

#include "weight.h"

namespace penstock {

struct LinearCall {
  const float* x;
  const Weight* weight;
  const float* norm;      // [columns] or null: RMSNorm of x first
  const float* residual;  // [rows, outputs] or null: added last; may be `out`
  float* out;             // [rows, outputs]; may be x where outputs == columns
  int64_t rows;
  float eps;
};

void linear(const LinearCall& call);

}  // namespace penstock
