// The choice of experts from their scores without autograd on a CPU: one pass a token.
#pragma once

#include "ops/router.h"

namespace mixwright::ops {

/// Whether choose_with_kernel takes these logits [N, E]: softmax or sigmoid scores, nothing asks for gradients.
bool router_kernel_applies(const at::Tensor& logits, const RouterForm& form);

/// Fills weights and experts of `routing` from its logits: scores in f32, `correction` (f32 [E] or undefined) added for the choice
/// alone, the best groups, then the top k, normalised and scaled as `form` says. Of equal scores the first expert wins.
void choose_with_kernel(Routing& routing, const at::Tensor& correction, const RouterForm& form);

}  // namespace mixwright::ops
