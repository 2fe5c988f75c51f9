// config.json -> ModelSpec.
#include <fmt/format.h>

#include "arch/architecture.h"
#include "arch/config_reader.h"
#include "arch/rope_config.h"
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

bool layer_is_moe(const MoeTable& moe, const ConfigReader& config, std::int64_t layer) {
    if (moe.sparse_step) {
        const auto step = config.integer("decoder_sparse_step", 1, max_layers).value_or(1);
        for (const std::int64_t dense : config.integers("mlp_only_layers", 0, max_layers))
            if (dense == layer) return false;
        return (layer + 1) % step == 0;
    }
    if (moe.first_k_dense) {
        const auto first = config.integer("first_k_dense_replace", 0, max_layers).value_or(0);
        const auto frequency = config.integer("moe_layer_freq", 1, max_layers).value_or(1);
        return layer >= first && layer % frequency == 0;
    }
    return true;
}

// Window of each layer, 0 for full attention.
std::vector<std::int64_t> sliding_windows(const Architecture& architecture, const ConfigReader& config, std::int64_t num_layers) {
    std::vector<std::int64_t> windows(static_cast<std::size_t>(num_layers), 0);
    const SlidingWindow rule = architecture.sliding_window;
    const std::int64_t window = config.integer("sliding_window", 0, max_length).value_or(0);
    if (rule == SlidingWindow::none || window == 0) return windows;
    if (rule != SlidingWindow::always && !config.boolean("use_sliding_window").value_or(false)) return windows;

    const io::Json* types = config.find("layer_types");
    const bool per_layer = rule == SlidingWindow::switched_from_layer || rule == SlidingWindow::switched_even_layers;
    if (per_layer && types != nullptr && (!types->is_array() || types->size() != windows.size()))
        config.fail("layer_types", fmt::format("expected a list of {} names", num_layers));
    const std::int64_t boundary = config.integer("max_window_layers", 0, max_layers).value_or(28);

    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
        bool sliding = true;
        if (per_layer && types != nullptr)
            sliding = (*types)[static_cast<std::size_t>(layer)] == "sliding_attention";
        else if (rule == SlidingWindow::switched_from_layer)
            sliding = layer >= boundary;
        else if (rule == SlidingWindow::switched_even_layers)
            sliding = layer % 2 == 0 && layer < boundary;
        if (sliding) windows[static_cast<std::size_t>(layer)] = window;
    }
    return windows;
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
    if (!moe.shared_width_key.empty())
        spec.shared_width = config.integer(moe.shared_width_key, 0, max_width).value_or(0);
    else if (!moe.num_shared_key.empty())
        spec.shared_width = config.integer(moe.num_shared_key, 0, max_experts).value_or(0) * spec.expert_width;

    switch (moe.norm_topk) {
        case NormTopk::always: spec.norm_topk_prob = true; break;
        case NormTopk::never: spec.norm_topk_prob = false; break;
        case NormTopk::config_false: spec.norm_topk_prob = config.boolean("norm_topk_prob").value_or(false); break;
        case NormTopk::config_true: spec.norm_topk_prob = config.boolean("norm_topk_prob").value_or(true); break;
    }
    spec.routed_scaling_factor = config.number("routed_scaling_factor", 0.0, 1e6).value_or(1.0);
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

ModelSpec parse_config(const io::Json& json, std::string_view source) {
    const ConfigReader config(json, std::string(source));
    ModelSpec spec;
    spec.architecture = &architecture_of(json, source);
    const Architecture& architecture = *spec.architecture;

    spec.vocab_size = config.require_integer("vocab_size", 1, max_vocab);
    spec.hidden_size = config.require_integer("hidden_size", 1, max_width);
    spec.num_layers = config.require_integer("num_hidden_layers", 1, max_layers);
    spec.num_heads = config.require_integer("num_attention_heads", 1, max_heads);
    spec.num_kv_heads = config.integer("num_key_value_heads", 1, spec.num_heads).value_or(spec.num_heads);
    if (spec.num_heads % spec.num_kv_heads != 0)
        config.fail("num_key_value_heads", fmt::format("does not divide num_attention_heads (got {} and {})",
                                                       spec.num_kv_heads, spec.num_heads));
    const auto head_dim = config.integer("head_dim", 1, max_width);
    if (!head_dim && architecture.default_head_dim == 0 && spec.hidden_size % spec.num_heads != 0)
        config.fail("hidden_size", fmt::format("is not a multiple of num_attention_heads (got {} and {})", spec.hidden_size,
                                               spec.num_heads));
    spec.head_dim = head_dim.value_or(architecture.default_head_dim > 0 ? architecture.default_head_dim
                                                                        : spec.hidden_size / spec.num_heads);
    if (spec.head_dim % 2 != 0) config.fail("head_dim", fmt::format("must be even for rotary embeddings (got {})", spec.head_dim));
    spec.intermediate_size = config.integer("intermediate_size", 1, max_width).value_or(0);
    spec.max_positions = config.integer("max_position_embeddings", 1, max_length).value_or(2048);
    spec.rms_norm_eps = config.number("rms_norm_eps", 0.0, 1.0).value_or(architecture.default_rms_norm_eps);
    spec.qkv_bias = bias_of(architecture.qkv_bias, config);
    spec.o_bias = bias_of(architecture.o_bias, config);
    spec.mlp_bias = bias_of(architecture.mlp_bias, config);
    spec.tied_embeddings = config.boolean("tie_word_embeddings").value_or(architecture.default_tied);

    if (const auto activation = config.text("hidden_act"); activation && *activation != "silu" && *activation != "swish")
        throw Error(ErrorCode::unsupported, fmt::format("{}: hidden_act \"{}\" is not supported for {}", source,
                                                        printable(*activation), architecture.model_type),
                    "supported: silu");
    spec.rope = parse_rope(config, architecture, spec.head_dim, spec.max_positions);

    if (architecture.moe) parse_moe(*architecture.moe, config, spec);
    const auto windows = sliding_windows(architecture, config, spec.num_layers);
    for (std::int64_t layer = 0; layer < spec.num_layers; ++layer) {
        const bool moe = architecture.moe && layer_is_moe(*architecture.moe, config, layer);
        spec.layers.push_back({moe ? LayerKind::moe : LayerKind::dense, windows[static_cast<std::size_t>(layer)]});
        if (!moe && spec.intermediate_size == 0) config.fail("intermediate_size", "is missing");
    }

    spec.eos_token_ids = config.integers("eos_token_id", 0, max_vocab);
    spec.bos_token_id = config.integer("bos_token_id", 0, max_vocab);
    spec.pad_token_id = config.integer("pad_token_id", -1, max_vocab);
    auto dtype = config.text("dtype");
    if (!dtype) dtype = config.text("torch_dtype");
    if (dtype) spec.dtype = dtype_from_name(*dtype);
    return spec;
}

}  // namespace mixwright::arch
