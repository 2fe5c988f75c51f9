// The routers of a new MoE: from prompts as mergekit-moe makes them, at random, or fitted to text of each expert's domain.
#pragma once

#include <vector>

#include "io/json.h"
#include "model/layer_stream.h"
#include "surgery/moe_plan.h"

namespace mixwright::surgery {

struct GateOptions {
    model::Placement placement;
    std::uint64_t seed = 0;
};

struct Gates {
    std::vector<LayerGates> layers;  // one a MoE layer, in order
    io::Json report;                 // how well ridge gates fit, layer by layer; null for other modes
    /// Text of each expert's domain, to try the MoE on: held-out data, or its prompts. Empty without either.
    std::vector<std::vector<model::StreamedBatch>> samples;
};

/// The gates that the recipe asks for. Runs the base model, a layer at a time, when they are made of its states.
Gates make_gates(const BuildRecipe& recipe, const SourceModels& sources, const arch::ModelSpec& spec, const GateOptions& options);

/// Condition number of each layer's router: mergekit-moe calls a router degenerate above 5, when two experts' rows
/// nearly coincide.
std::vector<double> condition_numbers(const std::vector<LayerGates>& gates, std::int64_t hidden_size);

}  // namespace mixwright::surgery
