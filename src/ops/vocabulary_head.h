// The head of a language model over a large vocabulary, and losses behind it, without ever holding the logits of all tokens.
//
// Shape legend: N tokens, n tokens of a chunk, D hidden size, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace mixwright::ops {

/// What stands between hidden head^T and the logits: (x + bias) / divisor, then c tanh(x / c).
struct HeadForm {
    at::Tensor bias;       // [V], or undefined
    double divisor = 1.0;
    double softcap = 0;    // 0: none
};

/// hidden [n, D], head [V, D] in one dtype -> logits [n, V] that may be overwritten. Not differentiable.
at::Tensor head_logits(const at::Tensor& hidden, const at::Tensor& head, const HeadForm& form);

/// A loss of single tokens: the losses, f32 [n], of `logits` [n, V] of the tokens from `begin` on. With `gradient`, the logits
/// become the gradient of the sum of those losses.
using RowLosses = std::function<at::Tensor(at::Tensor& logits, std::int64_t begin, bool gradient)>;

/// The sum of `losses` over N tokens, as a scalar f32 (f64 when all is). hidden [N, D] and head [V, D] in one dtype; logits exist for `chunk` tokens
/// at a time. Differentiable in hidden, head and bias: their gradients are made in the same pass, so that no logit is computed
/// twice.
at::Tensor head_loss(const at::Tensor& hidden, const at::Tensor& head, const HeadForm& form, std::int64_t chunk, const RowLosses& losses);

}  // namespace mixwright::ops
