// Rotation of queries and keys on a CPU, in one pass forward and one back.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/rope.h"

namespace mixwright::ops {

/// Whether rotate_with_kernel takes x [B, H, L, d].
bool rope_kernel_applies(const at::Tensor& x);

/// Rotates the first r of d, the rest stays. x [B, H, L, d] with a dense last dimension. The result [B, H, L, d] is a view of a
/// contiguous [B, L, H, d]; neighbouring pairs come out as halves. Differentiable.
at::Tensor rotate_with_kernel(const at::Tensor& x, const RopeAngles& angles);

}  // namespace mixwright::ops
