#include "arch/gguf_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "arch/gguf_facts.h"
#include "arch/gguf_metadata.h"
#include "arch/gguf_rope.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorInfo;
using checkpoint::TensorSource;
using io::Json;

bool has_layer_tensor(const TensorSource& tensors, std::string_view suffix) {
    return std::ranges::any_of(tensors.tensors(), [&](const TensorInfo& info) { return info.name.starts_with("blk.") && info.name.ends_with(suffix); });
}
bool has_tensor(const TensorSource& tensors, std::int64_t layer, std::string_view suffix) {
    return tensors.find(fmt::format("blk.{}.{}", layer, suffix)) != nullptr;
}

// ---- which architecture ----

// Several of our rows go under one general.architecture: "llama" is Llama, Mistral and Mixtral. What the file holds decides.
bool fits(const Architecture& row, const GgufMetadata& metadata, const TensorSource& tensors) {
    const bool experts = metadata.integer(".expert_count").value_or(0) > 0;
    if (row.moe.has_value() != experts) return false;
    if (!experts) return (row.sliding_window == SlidingWindow::none) == (metadata.integer(".attention.sliding_window").value_or(0) == 0);
    return row.moe->correction_bias == has_layer_tensor(tensors, ".exp_probs_b.bias") &&
           (!row.moe->shared_expert.empty() || !has_layer_tensor(tensors, "_shexp.weight"));
}

const Architecture& architecture_of_gguf(const GgufMetadata& metadata, const TensorSource& tensors) {
    const std::string& name = metadata.architecture();
    std::vector<const Architecture*> candidates;
    std::vector<std::string_view> known;
    for (const Architecture* row : registry()) {
        if (row->gguf_name.empty()) continue;
        if (std::ranges::find(known, row->gguf_name) == known.end()) known.push_back(row->gguf_name);
        if (row->gguf_name == name) candidates.push_back(row);
    }
    if (candidates.empty())
        throw Error(ErrorCode::unsupported, fmt::format("{}: general.architecture \"{}\" is not supported", metadata.source(), printable(name)),
                    fmt::format("supported: {}", fmt::join(known, ", ")));
    for (const Architecture* row : candidates)
        if (candidates.size() > 1 && fits(*row, metadata, tensors)) return *row;
    return *candidates.front();
}

// ---- keys ----

// A config under the common keys, where an architecture's own spelling has priority when it is read.
class Config {
public:
    explicit Config(const Architecture& architecture) : architecture_(architecture) {
        json_["architectures"] = {architecture.hf_class};
        json_["model_type"] = architecture.model_type;
    }

    void set(std::string_view key, Json value) {
        Json* place = &json_;
        std::string path(key);
        for (const ConfigAlias& alias : architecture_.aliases)
            if (alias.key == key) path = alias.path;
        for (std::size_t dot; (dot = path.find('.')) != path.npos; path.erase(0, dot + 1)) place = &(*place)[path.substr(0, dot)];
        (*place)[path] = std::move(value);
    }
    Json take() { return std::move(json_); }

private:
    const Architecture& architecture_;
    Json json_ = Json::object();
};

struct KeyRow {
    std::string_view gguf, key;
    double neutral;                              // the value that changes nothing
    bool (*honoured)(const Architecture&);       // whether the model computes with it
    bool whole = false;                          // an integer
};

// Keys whose value is the config's.
constexpr KeyRow key_rows[] = {
    {".attention.scale", "attention_multiplier", 0, [](const Architecture& a) { return a.attention_scale == AttentionScale::multiplier; }},
    {".embedding_scale", "embedding_multiplier", 1, [](const Architecture& a) { return a.multipliers; }},
    {".residual_scale", "residual_multiplier", 1, [](const Architecture& a) { return a.multipliers; }},
    {".logit_scale", "logits_scaling", 1, [](const Architecture& a) { return a.multipliers; }},
    {".attn_logit_softcapping", "attn_logit_softcapping", 0, [](const Architecture& a) { return a.softcaps; }},
    {".final_logit_softcapping", "final_logit_softcapping", 0, [](const Architecture& a) { return a.softcaps; }},
    {".attention.clamp_kqv", "clip_qkv", 0, [](const Architecture& a) { return a.clips_qkv; }},
    {".rope.freq_base_swa", "rope_local_base_freq", 0, [](const Architecture& a) { return a.local_rope; }},
    {".expert_weights_scale", "routed_scaling_factor", 1, [](const Architecture& a) { return a.moe && a.moe->first_k_dense; }},
    {".expert_group_count", "n_group", 1, [](const Architecture& a) { return a.moe && a.moe->groups; }, true},
    {".expert_group_used_count", "topk_group", 0, [](const Architecture&) { return true; }, true},  // means nothing without groups
    {".attention.q_lora_rank", "q_lora_rank", 0, [](const Architecture& a) { return a.latent_attention; }, true},
    {".attention.kv_lora_rank", "kv_lora_rank", 0, [](const Architecture& a) { return a.latent_attention; }, true},
};

void add_plain_keys(Config& config, const GgufMetadata& metadata, const Architecture& architecture) {
    for (const KeyRow& row : key_rows) {
        const auto value = metadata.number(row.gguf);
        if (!value || *value == row.neutral) continue;
        if (!row.honoured(architecture))
            metadata.unsupported(fmt::format("{}{} is {}, which {} has no place for", metadata.architecture(), row.gguf, *value, architecture.model_type));
        config.set(row.key, row.whole ? Json(metadata.integer(row.gguf).value()) : Json(*value));
    }
}

// ---- attention ----

void add_latent_attention(Config& config, const GgufMetadata& metadata, std::int64_t heads) {
    const std::int64_t rope = metadata.size(".rope.dimension_count");
    // Files made before MLA was computed in its latent have the lengths of whole heads under the common keys.
    const auto length = [&](const char* latent, const char* plain) { return metadata.integer(latent).value_or(metadata.integer(plain).value_or(0)); };
    config.set("qk_rope_head_dim", rope);
    config.set("qk_nope_head_dim", length(".attention.key_length_mla", ".attention.key_length") - rope);
    config.set("v_head_dim", length(".attention.value_length_mla", ".attention.value_length"));
    config.set("num_key_value_heads", heads);
}

void add_heads(Config& config, const GgufMetadata& metadata, const Architecture& architecture, std::int64_t layers) {
    const GgufFacts& facts = gguf_facts(metadata.architecture());
    const std::int64_t hidden = metadata.size(".embedding_length"), heads = metadata.size(".attention.head_count");
    config.set("hidden_size", hidden);
    config.set("num_attention_heads", heads);
    if (architecture.latent_attention) return add_latent_attention(config, metadata, heads);
    config.set("num_key_value_heads", metadata.integer(".attention.head_count_kv").value_or(heads));

    const auto rotated = metadata.integer(".rope.dimension_count");
    const std::int64_t head_dim = metadata.integer(".attention.key_length").value_or(rotated && !facts.rotates_part ? *rotated : hidden / heads);
    if (metadata.integer(".attention.value_length").value_or(head_dim) != head_dim) metadata.unsupported("keys and values of different length");
    if (heads * head_dim != hidden || architecture.qk_norm == QkNorm::per_head || architecture.default_head_dim > 0) config.set("head_dim", head_dim);
    if (rotated && *rotated != head_dim && !facts.rotates_part) metadata.unsupported("rope on a part of the head");
    if (rotated && facts.rotates_part && head_dim > 0) config.set("partial_rotary_factor", static_cast<double>(*rotated) / static_cast<double>(head_dim));
    if (architecture.attention_scale == AttentionScale::query_scalar)
        config.set("query_pre_attn_scalar", layers == facts.wide_scalar_layers ? hidden / heads : head_dim);
}

void add_window(Config& config, const GgufMetadata& metadata, const Architecture& architecture, std::int64_t layers) {
    const auto window = metadata.integer(".attention.sliding_window");
    if (const std::int64_t chunk = gguf_facts(metadata.architecture()).attention_chunk; chunk > 0) {
        config.set("attention_chunk_size", chunk);
        if (window == 0) config.set("layer_types", std::vector<std::string>(static_cast<std::size_t>(layers), "full_attention"));
        return;
    }
    if (window.value_or(0) <= 0) return config.set("sliding_window", nullptr);
    if (architecture.sliding_window == SlidingWindow::none) metadata.unsupported(fmt::format("a sliding window in a {}", architecture.model_type));
    config.set("sliding_window", *window);
    if (architecture.sliding_window != SlidingWindow::always && architecture.sliding_window != SlidingWindow::pattern) config.set("use_sliding_window", true);
    const Json* pattern = metadata.find(".attention.sliding_window_pattern");
    if (pattern == nullptr || !pattern->is_array()) return;
    Json types = Json::array();
    for (const Json& slides : *pattern) types.push_back(slides == true ? "sliding_attention" : "full_attention");
    config.set("layer_types", std::move(types));
}

void add_rope(Config& config, const GgufMetadata& metadata, const Architecture& architecture, const TensorSource& tensors, std::int64_t max_positions) {
    const double theta = metadata.number(".rope.freq_base").value_or(architecture.default_rope_theta);
    if (theta <= 0) metadata.wrong(".rope.freq_base", theta, "a positive number");
    Json rope = rope_scaling_of_gguf(metadata, tensors, theta, max_positions);
    if (rope.is_null()) rope = Json{{"rope_type", "default"}};
    if (!gguf_facts(metadata.architecture()).truncates_yarn && rope["rope_type"] == "yarn") rope["truncate"] = false;
    rope["rope_theta"] = theta;
    config.set("rope_theta", theta);
    config.set("rope_parameters", std::move(rope));
}

// ---- biases, norms ----

void add_switches(Config& config, const GgufMetadata& metadata, const Architecture& architecture, const TensorSource& tensors) {
    // One key may stand for several of them.
    std::set<std::string_view> on;
    const auto look = [&](const BiasRule& rule, bool there) {
        if (rule.config_key.empty()) return;
        if (there) on.insert(rule.config_key);
        config.set(rule.config_key, on.contains(rule.config_key));
    };
    look(architecture.qkv_bias, has_layer_tensor(tensors, ".attn_q.bias") || has_layer_tensor(tensors, ".attn_qkv.bias") ||
                                    (architecture.latent_attention && has_layer_tensor(tensors, ".attn_kv_a_mqa.bias")));
    look(architecture.o_bias, has_layer_tensor(tensors, ".attn_output.bias"));
    look(architecture.mlp_bias, has_layer_tensor(tensors, ".ffn_up.bias"));
    look(architecture.lm_head_bias, tensors.find("output.bias") != nullptr);
    if (architecture.qk_norm_key.empty()) return;
    const std::int64_t without = gguf_facts(metadata.architecture()).experts_without_qk_norm;
    config.set(architecture.qk_norm_key, without > 0 ? metadata.integer(".expert_count").value_or(0) != without : has_layer_tensor(tensors, ".attn_q_norm.weight"));
}

// ---- experts ----

// Width of the shared experts, by their tensors: the keys are not in every file.
std::int64_t shared_width(const TensorSource& tensors, std::int64_t layer) {
    const TensorInfo* up = tensors.find(fmt::format("blk.{}.ffn_up_shexp.weight", layer));
    return up != nullptr && up->shape.size() == 2 ? up->shape[0] : 0;
}

void add_experts(Config& config, const GgufMetadata& metadata, const TensorSource& tensors, const MoeTable& moe, std::int64_t layers) {
    config.set(moe.num_experts_keys.front(), metadata.size(".expert_count"));
    config.set("num_experts_per_tok", metadata.size(".expert_used_count"));
    auto width = metadata.integer(".expert_feed_forward_length");
    if (!width) width = metadata.size(".feed_forward_length");
    config.set(moe.expert_width_key, *width);
    if (moe.norm_topk == NormTopk::config_false || moe.norm_topk == NormTopk::config_true)
        config.set("norm_topk_prob", metadata.boolean(".expert_weights_norm").value_or(gguf_facts(metadata.architecture()).normalises_topk));
    if (moe.groups_by_method && metadata.integer(".expert_group_used_count").value_or(1) < metadata.integer(".expert_group_count").value_or(1))
        config.set("topk_method", "group_limited_greedy");

    Json dense = Json::array(), sparse = Json::array();
    for (std::int64_t layer = 0; layer < layers; ++layer) (has_tensor(tensors, layer, "ffn_gate_inp.weight") ? sparse : dense).push_back(layer);
    const auto num_dense = static_cast<std::int64_t>(dense.size());
    if (moe.interleaved) config.set("moe_layers", std::move(sparse));
    if (moe.sparse_step) {
        config.set("decoder_sparse_step", 1);
        config.set("mlp_only_layers", std::move(dense));
    }
    if (moe.first_k_dense) {
        config.set("first_k_dense_replace", metadata.integer(".leading_dense_block_count").value_or(num_dense));
        config.set("moe_layer_freq", 1);
    }
    const std::int64_t shared = shared_width(tensors, layers - 1);
    if (!moe.shared_width_key.empty()) config.set(moe.shared_width_key, metadata.integer(".expert_shared_feed_forward_length").value_or(shared));
    if (!moe.num_shared_key.empty()) {
        const std::int64_t count = metadata.integer(".expert_shared_count").value_or(*width > 0 ? shared / *width : 0);
        config.set(moe.num_shared_key, count > 0 ? Json(count) : Json(nullptr));
    }
}

// ---- the whole ----

// bfloat16 unless the matrices are stored as f16 throughout.
Dtype natural_dtype(const TensorSource& tensors) {
    std::optional<Dtype> found;
    for (const TensorInfo& info : tensors.tensors()) {
        if (info.shape.size() < 2) continue;
        if (found && *found != info.dtype) return Dtype::bf16;
        found = info.dtype;
    }
    return found == Dtype::f16 ? Dtype::f16 : Dtype::bf16;
}

// Layers that only predict tokens further ahead come last; no other part of the model sees them.
std::int64_t num_layers(const GgufMetadata& metadata) {
    constexpr std::int64_t max_layers = 1024;
    const std::int64_t blocks = metadata.size(".block_count"), ahead = metadata.integer(".nextn_predict_layers").value_or(0);
    if (blocks > max_layers) metadata.wrong(".block_count", blocks, "at most 1024");
    if (ahead < 0 || ahead >= blocks) metadata.wrong(".nextn_predict_layers", ahead, "fewer than there are blocks");
    return blocks - ahead;
}

}  // namespace

Json config_from_gguf(const Json& values, const TensorSource& tensors, std::string_view source) {
    const GgufMetadata metadata(values, source);
    const Architecture& architecture = architecture_of_gguf(metadata, tensors);
    const TensorInfo* embedding = tensors.find("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2)
        throw Error(ErrorCode::malformed, fmt::format("{}: there is no matrix token_embd.weight", source),
                    "a GGUF with only a vocabulary or an adapter is not a model");

    Config config(architecture);
    const std::int64_t layers = num_layers(metadata), max_positions = metadata.size(".context_length");
    config.set("vocab_size", embedding->shape[0]);
    config.set("num_hidden_layers", layers);
    config.set("intermediate_size", metadata.size(".feed_forward_length"));
    config.set("max_position_embeddings", max_positions);
    auto eps = metadata.number(".attention.layer_norm_rms_epsilon");
    if (!eps) eps = metadata.number(".attention.layer_norm_epsilon");
    config.set("rms_norm_eps", eps.value_or(architecture.default_rms_norm_eps));
    config.set("tie_word_embeddings", tensors.find("output.weight") == nullptr);
    add_heads(config, metadata, architecture, layers);
    add_window(config, metadata, architecture, layers);
    add_rope(config, metadata, architecture, tensors, max_positions);
    add_plain_keys(config, metadata, architecture);
    add_switches(config, metadata, architecture, tensors);
    if (architecture.moe) add_experts(config, metadata, tensors, *architecture.moe, layers);
    for (const auto& [key, name] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"}, {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                                    {"tokenizer.ggml.padding_token_id", "pad_token_id"}})
        if (const auto id = metadata.integer(key)) config.set(name, *id);
    config.set("dtype", torch_name(natural_dtype(tensors)));
    return config.take();
}

}  // namespace mixwright::arch
