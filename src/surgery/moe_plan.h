// Every tensor and file of the MoE and where it comes from. Nothing is read here: the plan can be shown, measured to the
// byte and compared before a weight is touched.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/writer.h"
#include "surgery/moe_targets.h"
#include "surgery/source_models.h"

namespace mixwright::surgery {

enum class ExpertLayout { per_expert, fused };

/// Routers of the MoE layers, in order of layer: rows of `experts` [E, D] and, for a gated shared expert, `shared` [D].
struct LayerGates {
    std::vector<float> experts, shared;
};

struct MoePlan {
    const MoeTarget* target = nullptr;
    arch::ModelSpec spec;
    checkpoint::OutputPlan output;
    std::vector<std::uint64_t> bytes_from;  // of SourceModels::all, in the output
    std::uint64_t router_bytes = 0, zero_bytes = 0;
};

/// `gates` has one entry for every MoE layer, or is empty for a dry run (routers then have no content yet).
/// `seed` is that of noise_scale.
MoePlan plan_moe(const BuildRecipe& recipe, const SourceModels& sources, const MoeTarget& target, ExpertLayout layout,
                 std::span<const LayerGates> gates, std::uint64_t seed);

/// Layers that get experts.
std::vector<std::int64_t> moe_layers(const arch::ModelSpec& spec);

}  // namespace mixwright::surgery
