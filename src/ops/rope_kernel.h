// Rotation of queries and keys without autograd on a CPU, in one pass.
#pragma once

#include <ATen/core/Tensor.h>

namespace mixwright::ops {

/// Whether rotate_with_kernel takes x [B, H, L, d].
bool rope_kernel_applies(const at::Tensor& x);

/// Rotates the first r of d in the half-split form, the rest stays. x [B, H, L, d] with a contiguous last dimension; cos and
/// sin f32 [L, r] or [B, L, r]. The result [B, H, L, d] is a view of a contiguous [B, L, H, d].
at::Tensor rotate_with_kernel(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace mixwright::ops
