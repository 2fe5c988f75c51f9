// Cross entropy over a large vocabulary without ever holding all logits.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/vocabulary_head.h"

namespace mixwright::ops {

/// scale * sum of -log softmax(hidden head^T)[target] over N tokens: head_loss() with targets [N] int64 in [0, V).
at::Tensor vocabulary_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double scale = 1.0,
                           std::int64_t chunk = 1024, const HeadForm& form = {});

/// -log softmax(logits)[target] of each token, f32 [n], of logits [n, V]. Not differentiable: for evaluation.
at::Tensor token_losses(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace mixwright::ops
