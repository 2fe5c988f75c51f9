#include "arch/render_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "arch/rope_config.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using io::Json;

bool can_have(const BiasRule& rule) { return rule.by_default || !rule.config_key.empty(); }

std::int64_t window_of(const ModelSpec& spec) {
    std::int64_t window = 0;
    for (const LayerSpec& layer : spec.layers) window = std::max(window, layer.sliding_window);
    return window;
}

bool uniform_windows(const ModelSpec& spec) {
    return std::ranges::all_of(spec.layers, [&](const LayerSpec& l) { return l.sliding_window == spec.layers[0].sliding_window; });
}

std::int64_t num_leading_dense(const ModelSpec& spec) {
    const auto first = std::ranges::find(spec.layers, LayerKind::moe, &LayerSpec::kind);
    return first - spec.layers.begin();
}

bool dense_layers_lead(const ModelSpec& spec) {
    return std::all_of(spec.layers.begin() + num_leading_dense(spec), spec.layers.end(),
                       [](const LayerSpec& layer) { return layer.kind == LayerKind::moe; });
}

void render_bias(Json& config, const BiasRule& rule, bool value) {
    if (!rule.config_key.empty()) config[std::string(rule.config_key)] = value;
}

Json rope_object(const Rope& rope, std::int64_t max_positions) {
    Json object{{"rope_type", rope_scaling_name(rope.scaling)}};
    if (rope.scaling == RopeScaling::none) return object;
    object["factor"] = rope.factor;
    // transformers warns of keys that a rope type does not have.
    if (rope.scaling != RopeScaling::linear && (rope.scaling != RopeScaling::dynamic || rope.original_max_positions != static_cast<double>(max_positions)))
        object["original_max_position_embeddings"] = static_cast<std::int64_t>(rope.original_max_positions);
    const auto optional = [&](const char* key, const std::optional<double>& value) {
        if (value) object[key] = *value;
    };
    optional("attention_factor", rope.attention_factor);
    if (rope.scaling == RopeScaling::llama3) {
        object["low_freq_factor"] = rope.low_freq_factor;
        object["high_freq_factor"] = rope.high_freq_factor;
    } else if (rope.scaling == RopeScaling::yarn) {
        object["beta_fast"] = rope.beta_fast;
        object["beta_slow"] = rope.beta_slow;
        optional("mscale", rope.mscale);
        optional("mscale_all_dim", rope.mscale_all_dim);
        if (!rope.truncate) object["truncate"] = false;
    } else if (rope.scaling == RopeScaling::longrope) {
        object["short_factor"] = rope.short_factor;
        object["long_factor"] = rope.long_factor;
    }
    return object;
}

void render_rope(Json& config, const Rope& rope, std::int64_t max_positions) {
    Json object = rope_object(rope, max_positions);
    config["rope_theta"] = rope.theta;
    if (rope.partial != 1.0) config["partial_rotary_factor"] = object["partial_rotary_factor"] = rope.partial;
    if (rope.scaling == RopeScaling::none) {
        config["rope_scaling"] = nullptr;
    } else {
        config["rope_scaling"] = object;
        config["rope_scaling"]["type"] = object["rope_type"];  // as transformers before 4.43 spelt it
    }
    object["rope_theta"] = rope.theta;
    config["rope_parameters"] = std::move(object);
}

void render_sliding_window(Json& config, const ModelSpec& spec) {
    const SlidingWindow rule = spec.architecture->sliding_window;
    const std::int64_t window = window_of(spec);
    if (rule == SlidingWindow::none) return;
    config["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
    if (rule == SlidingWindow::always) return;
    config["use_sliding_window"] = window > 0;
    if (rule == SlidingWindow::switched) return;
    config["max_window_layers"] = spec.num_layers;
    Json& types = config["layer_types"] = Json::array();
    for (const LayerSpec& layer : spec.layers) types.push_back(layer.sliding_window > 0 ? "sliding_attention" : "full_attention");
    if (rule == SlidingWindow::switched_from_layer && window > 0) {
        const auto first = std::ranges::find_if(spec.layers, [](const LayerSpec& l) { return l.sliding_window > 0; });
        config["max_window_layers"] = first - spec.layers.begin();
    }
}

void render_moe(Json& config, const ModelSpec& spec) {
    const MoeTable& moe = *spec.architecture->moe;
    for (const std::string_view key : moe.num_experts_keys) config[std::string(key)] = spec.num_experts;
    config["num_experts_per_tok"] = spec.top_k;
    config[std::string(moe.expert_width_key)] = spec.expert_width;
    if (!moe.shared_width_key.empty())
        config[std::string(moe.shared_width_key)] = spec.shared_width;
    else if (!moe.num_shared_key.empty())
        config[std::string(moe.num_shared_key)] = spec.shared_width > 0 ? Json(spec.shared_width / spec.expert_width) : Json(nullptr);
    if (moe.norm_topk == NormTopk::config_false || moe.norm_topk == NormTopk::config_true)
        config["norm_topk_prob"] = spec.norm_topk_prob;
    if (spec.routed_scaling_factor != 1.0) config["routed_scaling_factor"] = spec.routed_scaling_factor;
    if (moe.sparse_step) {
        config["decoder_sparse_step"] = 1;
        Json& dense = config["mlp_only_layers"] = Json::array();
        for (std::size_t layer = 0; layer < spec.layers.size(); ++layer)
            if (spec.layers[layer].kind == LayerKind::dense) dense.push_back(layer);
    }
    if (moe.first_k_dense) {
        config["first_k_dense_replace"] = num_leading_dense(spec);
        config["moe_layer_freq"] = 1;
    }
}

}  // namespace

std::vector<std::string> inexpressible(const ModelSpec& spec, const Architecture& architecture) {
    std::vector<std::string> reasons;
    if (spec.qkv_bias && !can_have(architecture.qkv_bias)) reasons.push_back("has no place for q/k/v biases");
    if (spec.o_bias && !can_have(architecture.o_bias)) reasons.push_back("has no place for a bias of o_proj");
    if (spec.mlp_bias && (architecture.moe || !can_have(architecture.mlp_bias))) reasons.push_back("has no place for biases of the MLP");
    if (spec.architecture->qk_norm != architecture.qk_norm)
        reasons.push_back(architecture.qk_norm == QkNorm::none ? "has no q/k norm" : "needs a q/k norm");
    if (window_of(spec) > 0 && window_of(spec) < spec.max_positions) {
        const bool per_layer = architecture.sliding_window == SlidingWindow::switched_from_layer ||
                               architecture.sliding_window == SlidingWindow::switched_even_layers;
        if (architecture.sliding_window == SlidingWindow::none)
            reasons.push_back(fmt::format("cannot say sliding_window {} (of {} positions)", window_of(spec), spec.max_positions));
        else if (!per_layer && !uniform_windows(spec))
            reasons.push_back("cannot say which layers have a sliding window");
    }
    const bool mixed = num_leading_dense(spec) > 0 && num_leading_dense(spec) < spec.num_layers;
    if (spec.is_moe() && architecture.moe && (mixed || !dense_layers_lead(spec)) && !architecture.moe->sparse_step &&
        !(architecture.moe->first_k_dense && dense_layers_lead(spec)))
        reasons.push_back(architecture.moe->first_k_dense ? "can only keep the first layers dense" : "gives experts to every layer");
    return reasons;
}

io::Json render_config(const ModelSpec& spec) {
    const Architecture& architecture = *spec.architecture;
    if (const auto reasons = inexpressible(spec, architecture); !reasons.empty())
        throw Error(ErrorCode::unsupported, fmt::format("{} {}", architecture.model_type, fmt::join(reasons, ", ")));

    Json config{
        {"architectures", {architecture.hf_class}},
        {"model_type", architecture.model_type},
        {"vocab_size", spec.vocab_size},
        {"hidden_size", spec.hidden_size},
        {"num_hidden_layers", spec.num_layers},
        {"num_attention_heads", spec.num_heads},
        {"num_key_value_heads", spec.num_kv_heads},
        {"head_dim", spec.head_dim},
        {"hidden_act", "silu"},
        {"max_position_embeddings", spec.max_positions},
        {"rms_norm_eps", spec.rms_norm_eps},
        {"tie_word_embeddings", spec.tied_embeddings},
        {"bos_token_id", spec.bos_token_id ? Json(*spec.bos_token_id) : Json(nullptr)},
        {"pad_token_id", spec.pad_token_id ? Json(*spec.pad_token_id) : Json(nullptr)},
        {"use_cache", true},
    };
    if (spec.eos_token_ids.size() == 1)
        config["eos_token_id"] = spec.eos_token_ids[0];
    else
        config["eos_token_id"] = spec.eos_token_ids.empty() ? Json(nullptr) : Json(spec.eos_token_ids);
    if (spec.intermediate_size > 0) config["intermediate_size"] = spec.intermediate_size;
    if (spec.dtype) config["dtype"] = config["torch_dtype"] = torch_name(*spec.dtype);
    render_bias(config, architecture.qkv_bias, spec.qkv_bias);
    render_bias(config, architecture.o_bias, spec.o_bias);
    render_bias(config, architecture.mlp_bias, spec.mlp_bias);
    render_rope(config, spec.rope, spec.max_positions);
    render_sliding_window(config, spec);
    if (architecture.moe) render_moe(config, spec);
    return config;
}

}  // namespace mixwright::arch
