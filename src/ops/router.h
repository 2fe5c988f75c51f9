// Which experts a token goes to, and with what weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "arch/architecture.h"

namespace mixwright::ops {

struct RouterWeights {
    at::Tensor weight;      // [E, D]
    at::Tensor bias;        // [E], added to the logits, or undefined
    at::Tensor correction;  // f32 [E], added to the scores for the choice alone, or undefined
};

struct RouterForm {
    std::int64_t top_k = 1;
    bool normalize = false;                   // the chosen weights sum to one
    double scale = 1.0;                       // then multiplies them
    arch::RouterScores scores = arch::RouterScores::softmax;
    bool f32 = false;                         // logits in f32 whatever the dtype of x
    std::int64_t num_groups = 1, top_groups = 1;
    arch::GroupScore group_score = arch::GroupScore::best;
    double jitter = 0.01;                     // margin of sparsemixer
};

struct Routing {
    at::Tensor logits;      // [N, E], in the dtype of x, or f32
    at::Tensor weights;     // [N, K] f32
    at::Tensor experts;     // [N, K] int64, best first
    std::int64_t iteration = 0;  // of a chain, from 0
};

/// Scores all experts in f32 and takes the top k. x [N, D]. Weights are differentiable, the choice is not. Sources:
/// groups and correction bias, arXiv 2412.19437 (2.1.2); sparsemixer at inference, arXiv 2409.12136.
Routing route(const at::Tensor& x, const RouterWeights& router, const RouterForm& form);

/// The form of the routers of `spec`, which must be a MoE.
RouterForm router_form(const arch::ModelSpec& spec);

}  // namespace mixwright::ops
