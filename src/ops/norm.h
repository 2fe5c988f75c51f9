// Normalisation over the last dimension, in the forms models use.
#pragma once

#include <ATen/core/Tensor.h>

#include "arch/architecture.h"

namespace mixwright::ops {

struct Norm {
    at::Tensor weight;  // [D]
    at::Tensor bias;    // [D], of arch::NormForm::layer
};

/// x [..., D], in the given form; statistics in f32, result in the dtype of x. Differentiable.
at::Tensor norm(const at::Tensor& x, const Norm& weights, arch::NormForm form, double eps);

/// x / sqrt(mean(x^2) + eps), without weights.
at::Tensor l2_norm(const at::Tensor& x, double eps);

}  // namespace mixwright::ops
