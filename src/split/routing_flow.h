// Where the tokens of a text go in a MoE: how much weight each expert gets, and how it flows from the experts of one layer
// to those of the next.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/layer_stream.h"

namespace mixwright::split {

/// Of one MoE layer. E experts.
struct LayerRouting {
    std::int64_t layer = 0;
    at::Tensor mass;          // f64 [E]: mean weight over all tokens (0 where the expert was not chosen)
    at::Tensor flow;          // f64 [E before, E]: mean product of the weights in the MoE layer before and in this one; undefined in the first
    double shared_gate = 1.0; // mean weight of the shared expert
};

/// Runs `batches` through the MoE, layer by layer.
std::vector<LayerRouting> measure_routing_flow(const arch::OpenModel& moe, const std::vector<model::StreamedBatch>& batches,
                                               const model::Placement& placement);

/// Without a text: every expert alike, tokens flow from any to any.
std::vector<LayerRouting> uniform_routing(const arch::OpenModel& moe);

/// One expert for each MoE layer: the path with the most mass and flow, log mass + log flow summed over the layers (Viterbi).
std::vector<std::int64_t> strongest_path(const std::vector<LayerRouting>& routing);

/// E paths that share no expert: each layer's experts assigned to the paths they get most flow from. paths[p][layer].
std::vector<std::vector<std::int64_t>> disjoint_paths(const std::vector<LayerRouting>& routing);

}  // namespace mixwright::split
