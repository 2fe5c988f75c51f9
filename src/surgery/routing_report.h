// Where the tokens of each expert's domain go in the finished MoE, layer by layer: what a router is worth, seen before
// anyone chats with it.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "io/json.h"
#include "model/layer_stream.h"

namespace mixwright::surgery {

struct RoutingReport {
    std::vector<std::int64_t> layers;  // the MoE layers
    at::Tensor first;                  // [layers, domains, experts]: share of a domain's tokens whose first expert it is
    at::Tensor chosen;                 // [layers, domains, experts]: share whose top k it is in

    /// Share of tokens whose first expert is their domain's own, mean over domains and layers.
    double accuracy() const;
    /// (layer, expert) pairs that no token chose.
    std::vector<std::pair<std::int64_t, std::int64_t>> dead() const;
    io::Json json() const;
    /// The matrix over all layers, and per layer when `every_layer`. Markdown.
    std::string text(bool every_layer) const;
};

/// Runs `samples` (one list of batches a domain; domain i belongs to expert i) through `model`.
RoutingReport measure_routing(const arch::OpenModel& model, const std::vector<std::vector<model::StreamedBatch>>& samples,
                              const model::Placement& placement);

}  // namespace mixwright::surgery
