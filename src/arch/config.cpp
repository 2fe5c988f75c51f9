// config.json -> ModelSpec.
#include <fmt/format.h>

#include <cmath>

#include "arch/architecture.h"
#include "arch/config_reader.h"
#include "arch/layer_pattern.h"
#include "arch/rope_config.h"
#include "arch/zipped.h"
#include "error.h"

namespace mixwright::arch {
namespace {

// Caps: far above any published model, low enough that products of two stay harmless.
constexpr std::int64_t max_vocab = 4'000'000, max_width = 1 << 20, max_layers = 1024, max_heads = 1 << 14,
                       max_experts = 4096, max_experts_in_all = 1 << 18, max_length = std::int64_t{1} << 40;

bool bias_of(const BiasRule& rule, const ConfigReader& config) {
    if (rule.config_key.empty()) return rule.by_default;
    return config.boolean(rule.config_key).value_or(rule.by_default);
}

void parse_groups(const MoeTable& moe, const ConfigReader& config, ModelSpec& spec) {
    if (moe.groups_by_method) {
        const std::string method = config.text("topk_method").value_or("greedy");
        if (method == "greedy") return;
        if (method != "group_limited_greedy")
            throw Error(ErrorCode::unsupported, fmt::format("{}: topk_method \"{}\" is not supported", config.source(), printable(method)),
                        "supported: greedy, group_limited_greedy");
    }
    spec.num_groups = config.integer("n_group", 1, spec.num_experts).value_or(1);
    spec.top_groups = config.integer("topk_group", 1, spec.num_groups).value_or(spec.num_groups);
    if (spec.num_experts % spec.num_groups != 0)
        config.fail("n_group", fmt::format("does not divide the experts (got {} groups of {} experts)", spec.num_groups, spec.num_experts));
    const std::int64_t group = spec.num_experts / spec.num_groups;
    if (spec.top_k > spec.top_groups * group)
        config.fail("topk_group", fmt::format("{} groups of {} experts cannot give {} experts a token", spec.top_groups, group, spec.top_k));
    if (moe.groups == GroupScore::best_two && group < 2 && spec.num_groups > 1) config.fail("n_group", "groups of one expert have no two best");
}

void parse_moe(const MoeTable& moe, const ConfigReader& config, ModelSpec& spec) {
    for (const std::string_view key : moe.num_experts_keys)
        if (spec.num_experts == 0) spec.num_experts = config.integer(key, 1, max_experts).value_or(0);
    if (spec.num_experts == 0) config.fail(moe.num_experts_keys.front(), "is missing");
    if (spec.num_experts * spec.num_layers > max_experts_in_all)
        config.fail(moe.num_experts_keys.front(), fmt::format("too many experts over all layers (got {} x {}, limit {})",
                                                              spec.num_experts, spec.num_layers, max_experts_in_all));
    spec.top_k = config.require_integer("num_experts_per_tok", 1, spec.num_experts);
    spec.expert_width = config.require_integer(moe.expert_width_key, 1, max_width);
    if (!moe.shared_width_key.empty()) {
        spec.shared_width = config.integer(moe.shared_width_key, 0, max_width).value_or(0);
    } else {
        const auto count = moe.num_shared_key.empty() ? std::nullopt : config.integer(moe.num_shared_key, 0, max_experts);
        spec.shared_width = count.value_or(moe.default_num_shared) * spec.expert_width;
    }

    switch (moe.norm_topk) {
        case NormTopk::always: spec.norm_topk_prob = true; break;
        case NormTopk::never: spec.norm_topk_prob = false; break;
        case NormTopk::config_false: spec.norm_topk_prob = config.boolean("norm_topk_prob").value_or(false); break;
        case NormTopk::config_true: spec.norm_topk_prob = config.boolean("norm_topk_prob").value_or(true); break;
    }
    spec.routed_scaling_factor = config.number("routed_scaling_factor", 0.0, 1e6).value_or(1.0);
    spec.router_jitter = config.number("router_jitter_noise", 0.0, 1e6).value_or(spec.router_jitter);
    if (moe.groups) parse_groups(moe, config, spec);
}

}  // namespace

const Architecture& architecture_of(const io::Json& config, std::string_view source) {
    const ConfigReader reader(config, std::string(source));
    const auto model_type = reader.text("model_type");
    if (!model_type)
        throw Error(ErrorCode::malformed, fmt::format("{}: model_type is missing", source),
                    "this does not look like the config.json of a Hugging Face language model");
    try {
        return find_architecture(*model_type);
    } catch (const Error& e) {
        throw Error(e.code(), fmt::format("{}: {}", source, e.message()), e.hint());
    }
}

namespace {

struct ActivationName {
    std::string_view name;
    Activation activation;
};
constexpr ActivationName activation_names[] = {
    {"silu", Activation::silu},           {"swish", Activation::silu},          {"gelu", Activation::gelu},
    {"gelu_pytorch_tanh", Activation::gelu_tanh}, {"gelu_new", Activation::gelu_tanh}, {"gelu_fast", Activation::gelu_tanh},
};

Activation parse_activation(const ConfigReader& config, const Architecture& architecture) {
    // gpt-oss says "silu" and means its own.
    if (architecture.activation == Activation::clamped_swiglu) return architecture.activation;
    const auto name = config.text("hidden_act");
    if (!name) return architecture.activation;
    for (const ActivationName& row : activation_names)
        if (row.name == *name) return row.activation;
    throw Error(ErrorCode::unsupported, fmt::format("{}: hidden_act \"{}\" is not supported for {}", config.source(), printable(*name), architecture.model_type),
                "supported: silu, gelu, gelu_pytorch_tanh");
}

// `json` with the architecture's own spellings under the common keys.
io::Json with_common_keys(const io::Json& json, const Architecture& architecture) {
    io::Json config = json;
    for (const ConfigAlias& alias : architecture.aliases)
        if (const io::Json* value = find_path(json, alias.path)) config[std::string(alias.key)] = *value;
    return config;
}

double softcap(const ConfigReader& config, std::string_view key, double by_default) {
    return config.number(key, 0.0, 1e6).value_or(config.says(key) ? 0.0 : by_default);
}

LatentAttention parse_latent(const ConfigReader& config) {
    LatentAttention latent;
    latent.q_rank = config.integer("q_lora_rank", 1, max_width).value_or(0);
    latent.kv_rank = config.require_integer("kv_lora_rank", 1, max_width);
    latent.nope_dim = config.require_integer("qk_nope_head_dim", 1, max_width);
    latent.rope_dim = config.require_integer("qk_rope_head_dim", 2, max_width);
    latent.v_dim = config.require_integer("v_head_dim", 1, max_width);
    return latent;
}

void parse_attention(const ConfigReader& config, const Architecture& architecture, ModelSpec& spec) {
    if (architecture.latent_attention) {
        spec.latent = parse_latent(config);
        spec.head_dim = spec.latent->nope_dim + spec.latent->rope_dim;
    } else {
        const auto head_dim = config.integer("head_dim", 1, max_width);
        if (!head_dim && architecture.default_head_dim == 0 && spec.hidden_size % spec.num_heads != 0)
            config.fail("hidden_size", fmt::format("is not a multiple of num_attention_heads (got {} and {})", spec.hidden_size, spec.num_heads));
        spec.head_dim = head_dim.value_or(architecture.default_head_dim > 0 ? architecture.default_head_dim : spec.hidden_size / spec.num_heads);
    }
    if (spec.rope_head_dim() % 2 != 0)
        config.fail(spec.latent ? "qk_rope_head_dim" : "head_dim", fmt::format("must be even for rotary embeddings (got {})", spec.rope_head_dim()));
    if (spec.num_heads * spec.head_dim > max_width)
        config.fail("head_dim", fmt::format("{} heads of {} are too wide (limit {})", spec.num_heads, spec.head_dim, max_width));
    spec.rope = parse_rope(config, architecture, spec.rope_head_dim(), spec.max_positions);
    if (architecture.local_rope) spec.local_rope = parse_local_rope(config, architecture, spec.rope_head_dim(), spec.max_positions);

    spec.attention_scale = 1 / std::sqrt(static_cast<double>(spec.head_dim));
    if (architecture.attention_scale == AttentionScale::multiplier)
        spec.attention_scale = config.number("attention_multiplier", 0.0, 1e6).value_or(1.0);
    else if (architecture.attention_scale == AttentionScale::query_scalar)
        spec.attention_scale = 1 / std::sqrt(config.number("query_pre_attn_scalar", 1e-6, 1e6).value_or(256.0));
    // DeepSeek's yarn also sharpens the scores.
    if (spec.latent && spec.rope.mscale_all_dim.value_or(0) != 0 && spec.rope.factor > 1) {
        const double mscale = 0.1 * *spec.rope.mscale_all_dim * std::log(spec.rope.factor) + 1;
        spec.attention_scale *= mscale * mscale;
    }
    const bool has_qk_norm = architecture.qk_norm_key.empty() || config.boolean(architecture.qk_norm_key).value_or(architecture.qk_norm_by_default);
    if (has_qk_norm) spec.qk_norm = architecture.qk_norm;
    if (architecture.clips_qkv) spec.qkv_clip = config.number("clip_qkv", 0.0, 1e9).value_or(0.0);
    if (architecture.softcaps) {
        spec.attention_softcap = softcap(config, "attn_logit_softcapping", architecture.default_attention_softcap);
        spec.logit_softcap = softcap(config, "final_logit_softcapping", architecture.default_logit_softcap);
    }
    if (architecture.temperature_tuning && config.boolean("attn_temperature_tuning").value_or(true)) {
        spec.temperature_scale = config.number("attn_scale", 0.0, 1e6).value_or(0.1);
        spec.temperature_floor = config.number("floor_scale", 1.0, 1e12).value_or(8192);
    }
}

}  // namespace

ModelSpec parse_config(const io::Json& json, std::string_view source) {
    ModelSpec spec;
    spec.architecture = &architecture_of(json, source);
    const Architecture& architecture = *spec.architecture;
    const io::Json common = with_common_keys(json, architecture);
    const ConfigReader config(common, std::string(source));

    spec.vocab_size = config.require_integer("vocab_size", 1, max_vocab);
    spec.hidden_size = config.require_integer("hidden_size", 1, max_width);
    spec.num_layers = config.require_integer("num_hidden_layers", 1, max_layers);
    spec.num_heads = config.require_integer("num_attention_heads", 1, max_heads);
    spec.num_kv_heads = config.integer("num_key_value_heads", 1, spec.num_heads).value_or(spec.num_heads);
    if (spec.num_heads % spec.num_kv_heads != 0)
        config.fail("num_key_value_heads", fmt::format("does not divide num_attention_heads (got {} and {})",
                                                       spec.num_kv_heads, spec.num_heads));
    spec.intermediate_size = config.integer("intermediate_size", 1, max_width).value_or(0);
    spec.max_positions = config.integer("max_position_embeddings", 1, max_length).value_or(2048);
    spec.rms_norm_eps = config.number("rms_norm_eps", 0.0, 1.0).value_or(architecture.default_rms_norm_eps);
    spec.qkv_bias = bias_of(architecture.qkv_bias, config);
    spec.o_bias = bias_of(architecture.o_bias, config);
    spec.mlp_bias = bias_of(architecture.mlp_bias, config);
    spec.lm_head_bias = bias_of(architecture.lm_head_bias, config);
    spec.tied_embeddings = config.boolean("tie_word_embeddings").value_or(architecture.default_tied);
    spec.activation = parse_activation(config, architecture);
    spec.swiglu_limit = config.number("swiglu_limit", 0.0, 1e6).value_or(spec.swiglu_limit);
    if (architecture.multipliers) {
        spec.embedding_multiplier = config.number("embedding_multiplier", 0.0, 1e6).value_or(1.0);
        spec.residual_multiplier = config.number("residual_multiplier", 0.0, 1e6).value_or(1.0);
        spec.logits_divisor = config.number("logits_scaling", 1e-6, 1e6).value_or(1.0);
    }
    if (architecture.root_scaled_embedding) spec.embedding_multiplier = std::sqrt(static_cast<double>(spec.hidden_size));
    parse_attention(config, architecture, spec);

    if (architecture.moe) parse_moe(*architecture.moe, config, spec);
    spec.layers = parse_layers(config, architecture, spec.num_layers);
    if (architecture.moe && architecture.moe->zipped) parse_zipped(config, spec);
    for (const LayerSpec& layer : spec.layers)
        if (layer.kind == LayerKind::dense && spec.intermediate_size == 0) config.fail("intermediate_size", "is missing");

    spec.eos_token_ids = config.integers("eos_token_id", 0, max_vocab);
    spec.bos_token_id = config.integer("bos_token_id", 0, max_vocab);
    spec.pad_token_id = config.integer("pad_token_id", -1, max_vocab);
    auto dtype = config.text("dtype");
    if (!dtype) dtype = config.text("torch_dtype");
    if (dtype) spec.dtype = dtype_from_name(*dtype);
    return spec;
}

std::int64_t ModelSpec::iterations(std::int64_t layer) const {
    const auto& chain = layers[static_cast<std::size_t>(layer)].chain;
    return chain ? chain->iterations : 1;
}

}  // namespace mixwright::arch
