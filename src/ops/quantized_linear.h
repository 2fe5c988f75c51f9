// Linear maps with weights in fewer bits.
#pragma once

#include "kernels/matvec.h"
#include "ops/linear.h"

namespace mixwright::ops {

/// `linear` with its weight in `format` (int8 or int4) and the scales that belong to it. Weights of other dtypes than bf16 and f32
/// go through f32.
Linear quantized(const Linear& linear, kernels::Format format);

}  // namespace mixwright::ops
