// Root mean square normalisation (arXiv 1910.07467).
#pragma once

#include <ATen/core/Tensor.h>

namespace mixwright::ops {

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension; statistics in f32, result in the dtype of x.
/// x [..., D], weight [D]. Differentiable.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace mixwright::ops
