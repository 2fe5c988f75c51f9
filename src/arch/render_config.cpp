#include "arch/render_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "arch/rope_config.h"
#include "arch/zipped.h"
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

std::string_view activation_name(Activation activation) {
    switch (activation) {
        case Activation::silu:
        case Activation::clamped_swiglu: return "silu";
        case Activation::gelu: return "gelu";
        case Activation::gelu_tanh: return "gelu_pytorch_tanh";
    }
    return "";
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
    optional("short_mscale", rope.short_mscale);
    optional("long_mscale", rope.long_mscale);
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

void render_rope(Json& config, const ModelSpec& spec) {
    const Rope& rope = spec.rope;
    const Architecture& architecture = *spec.architecture;
    Json object = rope_object(rope, spec.max_positions);
    config["rope_theta"] = rope.theta;
    if (rope.partial != 1.0 || architecture.default_partial_rotary != 1.0) config["partial_rotary_factor"] = object["partial_rotary_factor"] = rope.partial;
    if (!architecture.rope_interleaved_key.empty()) config[std::string(architecture.rope_interleaved_key)] = rope.interleaved;
    if (rope.scaling == RopeScaling::none) {
        config["rope_scaling"] = nullptr;
    } else {
        config["rope_scaling"] = object;
        config["rope_scaling"]["type"] = object["rope_type"];  // as transformers before 4.43 spelt it
        // Where Phi-3 and its like look for it.
        if (rope.scaling == RopeScaling::longrope) config["original_max_position_embeddings"] = object["original_max_position_embeddings"];
    }
    object["rope_theta"] = rope.theta;
    if (spec.local_rope) {
        Json local = rope_object(*spec.local_rope, spec.max_positions);
        local["rope_theta"] = config["rope_local_base_freq"] = spec.local_rope->theta;
        object = Json{{"full_attention", std::move(object)}, {"sliding_attention", std::move(local)}};
    }
    config["rope_parameters"] = std::move(object);
}

void render_latent(Json& config, const LatentAttention& latent) {
    config["q_lora_rank"] = latent.q_rank > 0 ? Json(latent.q_rank) : Json(nullptr);
    config["kv_lora_rank"] = latent.kv_rank;
    config["qk_nope_head_dim"] = latent.nope_dim;
    config["qk_rope_head_dim"] = latent.rope_dim;
    config["v_head_dim"] = latent.v_dim;
    config["head_dim"] = latent.rope_dim;  // as transformers has it
}

void render_attention(Json& config, const ModelSpec& spec) {
    const Architecture& architecture = *spec.architecture;
    const auto or_null = [](double value) { return value > 0 ? Json(value) : Json(nullptr); };
    if (spec.latent) render_latent(config, *spec.latent);
    if (!architecture.qk_norm_key.empty()) config[std::string(architecture.qk_norm_key)] = spec.qk_norm != QkNorm::none;
    if (architecture.attention_scale == AttentionScale::multiplier) config["attention_multiplier"] = spec.attention_scale;
    if (architecture.attention_scale == AttentionScale::query_scalar) {
        const double scalar = 1 / (spec.attention_scale * spec.attention_scale);
        config["query_pre_attn_scalar"] = std::abs(scalar - std::round(scalar)) < 1e-9 * scalar ? Json(std::llround(scalar)) : Json(scalar);
    }
    if (architecture.clips_qkv) config["clip_qkv"] = or_null(spec.qkv_clip);
    if (architecture.softcaps) {
        config["attn_logit_softcapping"] = or_null(spec.attention_softcap);
        config["final_logit_softcapping"] = or_null(spec.logit_softcap);
    }
    if (architecture.temperature_tuning) {
        config["attn_temperature_tuning"] = spec.temperature_scale > 0;
        config["attn_scale"] = spec.temperature_scale > 0 ? spec.temperature_scale : 0.1;
        config["floor_scale"] = static_cast<std::int64_t>(spec.temperature_floor);
    }
    if (architecture.no_rope_interval > 0) {
        Json& rotates = config["no_rope_layers"] = Json::array();
        for (const LayerSpec& layer : spec.layers) rotates.push_back(layer.rope ? 1 : 0);
        config["no_rope_layer_interval"] = architecture.no_rope_interval;
    }
}

void render_chunks(Json& config, const ModelSpec& spec) {
    std::int64_t chunk = 0;
    Json& types = config["layer_types"] = Json::array();
    for (const LayerSpec& layer : spec.layers) {
        types.push_back(layer.attention_chunk > 0 ? "chunked_attention" : "full_attention");
        chunk = std::max(chunk, layer.attention_chunk);
    }
    config["attention_chunk_size"] = chunk > 0 ? Json(chunk) : Json(nullptr);
}

void render_chain(Json& config, const ModelSpec& spec) {
    const Chain& chain = *std::ranges::find(spec.layers, LayerKind::moe, &LayerSpec::kind)->chain;
    const auto same = [&](const LayerSpec& layer) { return !layer.chain || layer.chain->iterations == chain.iterations; };
    if (std::ranges::all_of(spec.layers, same)) {
        config["inner_iter"] = chain.iterations;
    } else {
        Json& each = config["inner_iter"] = Json::array();
        for (const LayerSpec& layer : spec.layers) each.push_back(layer.chain ? layer.chain->iterations : 1);
    }
    if (chain.on_stream) {
        config["chain_form"] = "stream";
        config["chain_scale"] = chain.scale;
    }
    config["use_igate"] = chain.independent_gates;
    config["inner_residual"] = chain.inner_residual;
    config["outer_residual"] = chain.outer_residual;
    // The reference reads the residual from one word; its words cannot say two at once.
    if (chain.inner_residual + chain.initial_residual + chain.outer_residual <= 1)
        config["residual"] = chain.inner_residual ? "inner" : chain.initial_residual ? "addinit" : chain.outer_residual ? "outer" : "none";
    if (chain.initial_residual) config["initial_residual"] = true;
}

void render_sliding_window(Json& config, const ModelSpec& spec) {
    const SlidingWindow rule = spec.architecture->sliding_window;
    const std::int64_t window = window_of(spec);
    if (rule == SlidingWindow::none) return;
    if (rule == SlidingWindow::chunks) {
        render_chunks(config, spec);
        return;
    }
    config["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
    if (rule == SlidingWindow::always) return;
    if (rule != SlidingWindow::pattern) config["use_sliding_window"] = window > 0;
    if (rule == SlidingWindow::switched) return;
    if (rule == SlidingWindow::switched_from_layer || rule == SlidingWindow::switched_even_layers) config["max_window_layers"] = spec.num_layers;
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
    if (moe.groups) {
        config["n_group"] = spec.num_groups;
        config["topk_group"] = spec.top_groups;
        if (moe.groups_by_method) config["topk_method"] = spec.num_groups > 1 ? "group_limited_greedy" : "greedy";
    }
    if (moe.scores == RouterScores::sparsemixer) config["router_jitter_noise"] = spec.router_jitter;
    if (moe.scores == RouterScores::sigmoid) config["scoring_func"] = "sigmoid";
    if (moe.chained && std::ranges::any_of(spec.layers, [](const LayerSpec& l) { return l.chain.has_value(); })) render_chain(config, spec);
    if (moe.zipped) {
        Json& layers = config["zipped_experts"] = Json::array();
        for (const LayerSpec& layer : spec.layers) layers.push_back(layer.zipped ? zipped_json(*layer.zipped) : Json());
    }
    if (moe.interleaved) {
        Json& layers = config["moe_layers"] = Json::array();
        for (std::size_t layer = 0; layer < spec.layers.size(); ++layer)
            if (spec.layers[layer].kind == LayerKind::moe) layers.push_back(layer);
    }
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

// Where the graph itself differs: forms an architecture has or has not, whatever its config says.
void add_graph_reasons(const ModelSpec& spec, const Architecture& architecture, std::vector<std::string>& reasons) {
    const Architecture& own = *spec.architecture;
    const auto differs = [&](bool different, const char* reason) {
        if (different) reasons.emplace_back(reason);
    };
    differs(spec.latent.has_value() != architecture.latent_attention, architecture.latent_attention ? "needs latent attention" : "has no latent attention");
    differs(own.norm != architecture.norm || own.norm_placement != architecture.norm_placement, "normalises in another way");
    differs(own.mlp != architecture.mlp || (spec.activation == Activation::clamped_swiglu) != (architecture.activation == Activation::clamped_swiglu), "has MLPs of another form");
    differs(own.attention_sinks != architecture.attention_sinks, architecture.attention_sinks ? "needs attention sinks" : "has no attention sinks");
    differs((spec.attention_softcap > 0 || spec.logit_softcap > 0) && !architecture.softcaps, "has no soft caps");
    differs(spec.qkv_clip > 0 && !architecture.clips_qkv, "does not clip q, k and v");
    differs(spec.temperature_scale > 0 && !architecture.temperature_tuning, "has no temperature tuning");
    differs(spec.lm_head_bias && !can_have(architecture.lm_head_bias), "has no place for a bias of the head");
    differs(spec.rope.interleaved != architecture.rope_interleaved && architecture.rope_interleaved_key.empty(), "pairs the parts of rope in another way");
    differs(spec.local_rope.has_value() && !architecture.local_rope, "has one rope for all layers");
    differs(architecture.no_rope_interval == 0 && std::ranges::any_of(spec.layers, [](const LayerSpec& l) { return !l.rope; }), "rotates in every layer");
    differs(own.root_scaled_embedding != architecture.root_scaled_embedding ||
                (!own.root_scaled_embedding && spec.embedding_multiplier != 1 && !architecture.multipliers) ||
                ((spec.residual_multiplier != 1 || spec.logits_divisor != 1) && !architecture.multipliers),
            "cannot say the model's multipliers");
    const bool zipped = std::ranges::any_of(spec.layers, [](const LayerSpec& l) { return l.zipped.has_value(); });
    differs(zipped != (architecture.moe && architecture.moe->zipped), zipped ? "has no experts that share rows" : "needs experts that share rows");
    differs(std::ranges::any_of(spec.layers, [](const LayerSpec& l) { return l.chain.has_value(); }) && (!architecture.moe || !architecture.moe->chained),
            "has no chains of experts");
}

// The inverse of the aliases: common keys move to where the architecture looks for them.
Json in_own_spelling(const Json& common, const Architecture& architecture) {
    Json config = common;
    for (const ConfigAlias& alias : architecture.aliases) config.erase(std::string(alias.key));
    for (const ConfigAlias& alias : architecture.aliases) {
        const auto value = common.find(alias.key);
        if (value == common.end()) continue;
        Json* at = &config;
        std::string_view path = alias.path;
        for (auto dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.')) {
            at = &(*at)[std::string(path.substr(0, dot))];
            path.remove_prefix(dot + 1);
        }
        (*at)[std::string(path)] = *value;
    }
    return config;
}

}  // namespace

std::vector<std::string> inexpressible(const ModelSpec& spec, const Architecture& architecture) {
    std::vector<std::string> reasons;
    if (spec.qkv_bias && !can_have(architecture.qkv_bias)) reasons.push_back("has no place for q/k/v biases");
    if (spec.o_bias && !can_have(architecture.o_bias)) reasons.push_back("has no place for a bias of o_proj");
    if (spec.mlp_bias && (architecture.moe || !can_have(architecture.mlp_bias))) reasons.push_back("has no place for biases of the MLP");
    const bool optional_qk_norm = spec.qk_norm == QkNorm::none && !architecture.qk_norm_key.empty();
    if (spec.qk_norm != architecture.qk_norm && !optional_qk_norm)
        reasons.push_back(architecture.qk_norm == QkNorm::none ? "has no q/k norm" : "needs a q/k norm");
    add_graph_reasons(spec, architecture, reasons);
    if (window_of(spec) > 0 && window_of(spec) < spec.max_positions) {
        const bool per_layer = architecture.sliding_window != SlidingWindow::always && architecture.sliding_window != SlidingWindow::switched;
        if (architecture.sliding_window == SlidingWindow::none)
            reasons.push_back(fmt::format("cannot say sliding_window {} (of {} positions)", window_of(spec), spec.max_positions));
        else if (!per_layer && !uniform_windows(spec))
            reasons.push_back("cannot say which layers have a sliding window");
    }
    const bool mixed = num_leading_dense(spec) > 0 && num_leading_dense(spec) < spec.num_layers;
    if (spec.is_moe() && architecture.moe && (mixed || !dense_layers_lead(spec)) && !architecture.moe->sparse_step && !architecture.moe->interleaved &&
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
        {"hidden_act", activation_name(spec.activation)},
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
    render_bias(config, architecture.lm_head_bias, spec.lm_head_bias);
    if (architecture.multipliers) {
        config["embedding_multiplier"] = spec.embedding_multiplier;
        config["residual_multiplier"] = spec.residual_multiplier;
        config["logits_scaling"] = spec.logits_divisor;
    }
    if (spec.activation == Activation::clamped_swiglu) config["swiglu_limit"] = spec.swiglu_limit;
    render_attention(config, spec);
    render_rope(config, spec);
    render_sliding_window(config, spec);
    if (architecture.moe) render_moe(config, spec);
    return in_own_spelling(config, architecture);
}

}  // namespace mixwright::arch
