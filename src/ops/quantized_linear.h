// Linear maps with weights in fewer bits.
#pragma once

#include <functional>

#include "kernels/matvec.h"
#include "ops/linear.h"

namespace mixwright::ops {

/// Makes a contiguous tensor without values on the CPU.
using MakeEmpty = std::function<at::Tensor(at::IntArrayRef shape, at::ScalarType dtype)>;

/// `linear` with its weight in `format` (int8 or int4) and the scales that belong to it, both from `make_empty`. Weights of other dtypes
/// than bf16 and f32 go through f32.
Linear quantized(const Linear& linear, kernels::Format format, const MakeEmpty& make_empty);

}  // namespace mixwright::ops
