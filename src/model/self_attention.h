// The attention of a layer: grouped heads, or latent (MLA). Projections, norms of q and k, rope, cache, scores.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "arch/architecture.h"
#include "model/step.h"
#include "model/weights.h"

namespace mixwright::model {

/// The last `count` of x along `dim`: x itself when those are all, so that a pass of training records no copy of it.
at::Tensor last_of(const at::Tensor& x, std::int64_t dim, std::int64_t count);

/// x [B, L, D] (normalised) -> [B, Q, D]: of the last `num_queries` positions, which all are, but for the last layer of a step that is last_only.
/// Appends to the cache of the step when there is one. Differentiable.
at::Tensor self_attention(const arch::ModelSpec& spec, const AttentionWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, std::int64_t num_queries,
                          const Step& step);

}  // namespace mixwright::model
