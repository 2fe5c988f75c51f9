#include "split/dense_twin.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "arch/render_config.h"
#include "arch/zipped.h"
#include "error.h"
#include "surgery/moe_plan.h"

namespace mixwright::split {
namespace {

using arch::LayerKind;
using arch::ModelSpec;

// The dense architecture whose layer is that of the MoE with another MLP. What is not in the list stays in its own
// architecture: with all layers dense where its config can say so, else with one expert that every token goes to.
struct Pair {
    std::string_view moe, dense;
};
constexpr std::array twins{
    Pair{"mixtral", "mistral"},       Pair{"qwen2_moe", "qwen2"},           Pair{"qwen3_moe", "qwen3"},
    Pair{"deepseek", "llama"},        Pair{"granitemoe", "granite"},        Pair{"granitemoeshared", "granite"},
};

// Its own architecture with every layer dense: the experts' sizes stay in the config, unused, as it asks for them.
ModelSpec own_dense(const ModelSpec& moe, std::int64_t width) {
    ModelSpec spec = moe;
    spec.intermediate_size = std::max(width, widest_dense_layer(moe));
    for (arch::LayerSpec& layer : spec.layers) layer.kind = LayerKind::dense;
    return spec;
}

ModelSpec all_dense(const ModelSpec& moe, const arch::Architecture& architecture, std::int64_t width) {
    ModelSpec spec = own_dense(moe, width);
    spec.architecture = &architecture;
    if (architecture.qkv_bias.by_default) spec.qkv_bias = true;
    spec.num_experts = spec.top_k = spec.expert_width = spec.shared_width = 0;
    return spec;
}

// A softmax over one expert is one, and so is a renormalised weight.
ModelSpec one_expert(const ModelSpec& moe, std::int64_t width) {
    ModelSpec spec = moe;
    spec.num_experts = spec.top_k = 1;
    spec.expert_width = width;
    spec.shared_width = 0;
    return spec;
}

}  // namespace

std::int64_t widest_dense_layer(const ModelSpec& moe) {
    const bool any = std::ranges::any_of(moe.layers, [](const arch::LayerSpec& layer) { return layer.kind == LayerKind::dense; });
    return any ? moe.intermediate_size : 0;
}

DenseTwin dense_twin(const ModelSpec& mixture, std::int64_t width) {
    const ModelSpec moe = arch::unzipped(mixture, mixture.expert_width);
    const std::string_view name = moe.architecture->model_type;
    if (surgery::moe_layers(moe).empty())
        throw Error(ErrorCode::mismatch, fmt::format("a {} model without MoE layers: there is nothing to split", name));
    if (std::ranges::any_of(moe.layers, [](const arch::LayerSpec& layer) { return layer.chain.has_value(); }))
        throw Error(ErrorCode::unsupported, fmt::format("{}: experts that work on each other's output have no dense form", name));
    if (std::ranges::any_of(moe.layers, [](const arch::LayerSpec& layer) { return layer.zipped.has_value(); }))
        throw Error(ErrorCode::unsupported, fmt::format("{}: its experts share rows, none of them is an MLP of its own", name), "split the mixture that was zipped");

    std::string reasons;
    for (const Pair& pair : twins) {
        if (pair.moe != name) continue;
        const arch::Architecture& dense = arch::find_architecture(pair.dense);
        ModelSpec spec = all_dense(moe, dense, width);
        const std::vector<std::string> inexpressible = arch::inexpressible(spec, dense);
        if (inexpressible.empty()) return {std::move(spec), {}};
        reasons = fmt::format("{} {}; ", pair.dense, fmt::join(inexpressible, ", "));
    }
    const arch::MoeTable& table = *moe.architecture->moe;
    if (table.sparse_step || table.first_k_dense || table.interleaved)
        return {own_dense(moe, width), fmt::format("{}the output is a {} model with dense layers only", reasons, name)};
    if (!table.shared_expert.empty())
        throw Error(ErrorCode::unsupported, fmt::format("{}: no dense model computes what is left of it without its experts", name));
    if (table.scores == arch::RouterScores::sparsemixer)
        throw Error(ErrorCode::unsupported, fmt::format("{}no dense architecture has the layers of {}, and its router always chooses two experts: with one, other readers compute no number",
                                                        reasons, name));
    return {one_expert(moe, width), fmt::format("{}no dense architecture has the layers of {}: the output is a {} with one expert in each layer",
                                                reasons, name, name)};
}

}  // namespace mixwright::split
