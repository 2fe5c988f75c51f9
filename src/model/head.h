// The head of a model as the losses of ops/ see it, and how well it predicts tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/decoder.h"
#include "ops/vocabulary_head.h"

namespace mixwright::model {

/// What stands between the final states and the logits.
ops::HeadForm head_form(const Decoder& decoder, const ModelWeights& weights);

/// -log softmax(logits)[target] of each token, f32 [N], of final states [N, D]; logits exist for some tokens at a time. For
/// evaluation; the head may be quantised.
at::Tensor token_losses(const Decoder& decoder, const ModelWeights& weights, const at::Tensor& hidden_ND, const at::Tensor& targets_N);

}  // namespace mixwright::model
