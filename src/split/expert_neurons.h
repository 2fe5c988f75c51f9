// The neurons of all experts of a MoE layer as one list, and what each brings to the layer's output on text.
//
// Shape legend: n neurons, N tokens, D hidden size, E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/weights.h"
#include "ops/router.h"

namespace mixwright::split {

/// Neurons of several experts, one below the other.
struct Neurons {
    at::Tensor gate, up;              // [n, D]
    at::Tensor down;                  // [D, n]
    at::Tensor gate_bias, up_bias;    // [n], or undefined
    at::Tensor expert;                // int64 [n]: whose; E for the shared one

    /// Some of them.
    Neurons of(const at::Tensor& index) const;
    /// What enters down: input [N, D] -> [N, n]; activation as in `like`.
    at::Tensor activations(const at::Tensor& input_ND, const ops::Mlp& like) const;
};

/// What a MoE layer saw of a batch, and where its tokens went.
struct SeenBatch {
    at::Tensor input;                 // [N, D]
    ops::Routing routing;
    at::Tensor importance;            // f32 [N]: how much a token counts, or undefined: all alike
};

/// f64 [E + 1]: the mean weight of each expert over all tokens, that of the shared one last.
at::Tensor mean_weights(const model::MoeWeights& weights, const std::vector<SeenBatch>& seen);

/// All neurons of the layer, or the `limit` of them that bring the most energy to its gated output.
Neurons candidate_neurons(const model::MoeWeights& weights, const std::vector<SeenBatch>& seen, std::int64_t limit);

}  // namespace mixwright::split
