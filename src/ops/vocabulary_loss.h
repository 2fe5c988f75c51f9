// Cross entropy over a large vocabulary without ever holding all logits.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mixwright::ops {

/// What stands between hidden head^T and the logits: (x + bias) / divisor, then c tanh(x / c).
struct HeadForm {
    at::Tensor bias;       // [V], or undefined
    double divisor = 1.0;
    double softcap = 0;    // 0: none
};

/// scale * sum of -log softmax(hidden head^T)[target] over N tokens, as a scalar f32. hidden [N, D] and head [V, D] in one
/// dtype, targets [N] int64 in [0, V). Logits exist for `chunk` tokens at a time. Differentiable in hidden, head and bias: their
/// gradients are made in the same pass, so that no logit is computed twice.
at::Tensor vocabulary_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double scale = 1.0,
                           std::int64_t chunk = 1024, const HeadForm& form = {});

/// -log softmax(hidden head^T)[target] of each token, f32 [N]. Not differentiable: for evaluation.
at::Tensor token_losses(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, std::int64_t chunk = 1024,
                        const HeadForm& form = {});

}  // namespace mixwright::ops
