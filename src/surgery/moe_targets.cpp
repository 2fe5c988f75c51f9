#include "surgery/moe_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "arch/render_config.h"
#include "error.h"

namespace mixwright::surgery {
namespace {

using arch::LayerKind;
using arch::ModelSpec;
using arch::SharedGate;

const std::vector<MoeTarget> targets{
    {.name = "Mixtral", .model_type = "mixtral", .accepts = {"llama", "mistral"}},
    {.name = "DeepSeek MoE",
     .model_type = "deepseek",
     .accepts = {"llama", "mistral"},
     .only_simple_rope = true,
     .only_default_head_dim = true,
     // transformers has no class of its own for it: the model card's code does the work.
     .extra_config = R"({"scoring_func": "softmax", "aux_loss_alpha": 0.001, "seq_aux": true, "auto_map": {
        "AutoConfig": "deepseek-ai/deepseek-moe-16b-base--configuration_deepseek.DeepseekConfig",
        "AutoModel": "deepseek-ai/deepseek-moe-16b-base--modeling_deepseek.DeepseekModel",
        "AutoModelForCausalLM": "deepseek-ai/deepseek-moe-16b-base--modeling_deepseek.DeepseekForCausalLM"}})"},
    {.name = "Qwen MoE", .model_type = "qwen2_moe", .accepts = {"llama", "mistral", "qwen2"}, .needs_shared_expert = true},
    {.name = "Qwen3 MoE", .model_type = "qwen3_moe", .accepts = {"qwen3"}},
};

std::string lower(std::string_view text) {
    std::string result(text);
    for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return result;
}

bool has_layer(const BuildRecipe& recipe, std::int64_t layer) {
    return recipe.moe_layers.empty() ||
           std::ranges::any_of(recipe.moe_layers, [&](const LayerRange& r) { return r.first <= layer && layer <= r.last; });
}

// "base llama, expert 2 qwen2", one model of each kind.
std::string model_types_text(const SourceSpecs& sources) {
    std::vector<std::string> parts{fmt::format("base model {}", sources.base->architecture->model_type)};
    std::vector<std::string_view> seen{sources.base->architecture->model_type};
    const auto add = [&](const char* kind, const std::vector<const ModelSpec*>& specs) {
        for (std::size_t i = 0; i < specs.size(); ++i) {
            const std::string_view type = specs[i]->architecture->model_type;
            if (std::ranges::find(seen, type) != seen.end()) continue;
            seen.push_back(type);
            parts.push_back(fmt::format("{} {} {}", kind, i, type));
        }
    };
    add("expert", sources.experts);
    add("shared expert", sources.shared_experts);
    return parts.size() == 1 ? "" : fmt::format("{}", fmt::join(parts, ", "));
}

void judge_shared_experts(const MoeTarget& target, const BuildRecipe& recipe, const SourceSpecs& sources,
                          std::vector<std::string>& reasons) {
    const arch::MoeTable& moe = *target.architecture().moe;
    if (recipe.shared_experts.empty()) {
        if (target.needs_shared_expert) reasons.push_back("needs a shared expert: add `shared_experts:` with at least one model");
        return;
    }
    if (moe.shared_expert.empty()) {
        reasons.push_back("has no shared experts: remove `shared_experts`");
        return;
    }
    const bool has_prompts = !recipe.shared_experts[0].positive_prompts.empty();
    const bool gated = moe.shared_gate == SharedGate::sigmoid;
    if (!gated && has_prompts) reasons.push_back("adds its shared experts without a gate: remove their prompts");
    if (gated && !has_prompts && needs_prompts(recipe.gate_mode) && recipe.gate_mode != GateMode::ridge)
        reasons.push_back("puts a gate on its shared expert: give `shared_experts` positive_prompts");
    if (gated && has_prompts && recipe.gate_mode == GateMode::ridge)
        reasons.push_back("weighs its shared expert by 1/2 with ridge gates: remove the prompts of `shared_experts`");
    if (!moe.num_shared_key.empty() && !sources.experts.empty())
        for (const ModelSpec* shared : sources.shared_experts)
            if (shared->intermediate_size % sources.experts[0]->intermediate_size != 0)
                reasons.push_back(fmt::format("counts shared experts in widths of the routed ones (got width {}, routed {})",
                                              shared->intermediate_size, sources.experts[0]->intermediate_size));
}

std::string quoted_list(const std::vector<std::string_view>& words) { return fmt::format("{}", fmt::join(words, " or ")); }

}  // namespace

std::span<const MoeTarget> moe_targets() { return targets; }

std::vector<std::string> refusals(const MoeTarget& target, const BuildRecipe& recipe, const SourceSpecs& sources) {
    std::vector<std::string> reasons;
    if (const std::string mixed = model_types_text(sources); !mixed.empty())
        return {fmt::format("all models must share one architecture ({})", mixed)};
    const ModelSpec& base = *sources.base;
    if (std::ranges::find(target.accepts, base.architecture->model_type) == target.accepts.end())
        return {fmt::format("takes {} models, not {}", quoted_list(target.accepts), base.architecture->model_type)};

    judge_shared_experts(target, recipe, sources, reasons);
    for (std::string& reason : arch::inexpressible(moe_spec(target, recipe, sources), target.architecture()))
        reasons.push_back(std::move(reason));
    if (target.only_simple_rope && base.rope.scaling != arch::RopeScaling::none &&
        base.rope.scaling != arch::RopeScaling::linear && base.rope.scaling != arch::RopeScaling::dynamic)
        reasons.push_back("its code knows linear and dynamic rope scaling only");
    if (target.only_default_head_dim && base.head_dim * base.num_heads != base.hidden_size)
        reasons.push_back(fmt::format("its code computes head_dim as hidden_size / num_attention_heads = {}, the base has {}",
                                      base.hidden_size / base.num_heads, base.head_dim));
    if (base.rope.partial != 1.0) reasons.push_back("cannot rotate a part of each head only");
    return reasons;
}

const MoeTarget& choose_target(const BuildRecipe& recipe, const SourceSpecs& sources) {
    std::string report;
    bool known = false;
    for (const MoeTarget& target : targets) {
        if (!lower(target.name).starts_with(lower(recipe.architecture))) continue;
        known = true;
        const auto reasons = refusals(target, recipe, sources);
        if (reasons.empty()) return target;
        report += fmt::format("\n  {}: {}", target.name, fmt::join(reasons, "; "));
    }
    if (!known) {
        std::vector<std::string_view> names;
        for (const MoeTarget& target : targets) names.push_back(target.name);
        throw Error(ErrorCode::recipe,
                    fmt::format("{}: architecture \"{}\" is not known", recipe.source, printable(recipe.architecture)),
                    fmt::format("known, each by any prefix: {}", fmt::join(names, ", ")));
    }
    throw Error(ErrorCode::mismatch, fmt::format("{}: no output architecture fits these models:{}", recipe.source, report));
}

ModelSpec moe_spec(const MoeTarget& target, const BuildRecipe& recipe, const SourceSpecs& sources) {
    const ModelSpec& base = *sources.base;
    ModelSpec spec = base;
    spec.architecture = &target.architecture();
    // An architecture that always has the biases gets zeros where the models have none.
    if (spec.architecture->qkv_bias.by_default) spec.qkv_bias = true;
    spec.num_experts = static_cast<std::int64_t>(sources.experts.size());
    spec.top_k = recipe.top_k();
    spec.norm_topk_prob = true;
    if (!sources.experts.empty()) spec.expert_width = sources.experts[0]->intermediate_size;
    for (const ModelSpec* shared : sources.shared_experts) spec.shared_width += shared->intermediate_size;
    for (std::int64_t layer = 0; layer < spec.num_layers; ++layer) {
        arch::LayerSpec& one = spec.layers[static_cast<std::size_t>(layer)];
        one.kind = has_layer(recipe, layer) ? LayerKind::moe : LayerKind::dense;
        // A window no sequence can outgrow says nothing.
        if (one.sliding_window >= spec.max_positions) one.sliding_window = 0;
    }
    if (recipe.dtype) spec.dtype = recipe.dtype;
    return spec;
}

io::Json moe_config(const MoeTarget& target, const ModelSpec& spec) {
    io::Json config = arch::render_config(spec);
    config.update(io::parse_json(target.extra_config, "target"));
    return config;
}

}  // namespace mixwright::surgery
