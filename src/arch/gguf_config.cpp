#include "arch/gguf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <optional>

#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorInfo;
using checkpoint::TensorSource;
using io::Json;

// GGUF keeps 1e-5 as the float 9.99999974737875e-06; the shortest decimal that rounds to the same float is what was meant.
double as_written(double value) {
    const auto single = static_cast<float>(value);
    return static_cast<double>(single) == value ? std::stod(fmt::format("{}", single)) : value;
}

// Typed access to the metadata, under "ARCHITECTURE." when a key starts with a dot.
class Metadata {
public:
    Metadata(const Json& values, std::string_view source) : values_(values), source_(source) {
        architecture_ = text("general.architecture");
    }

    const std::string& architecture() const noexcept { return architecture_; }
    std::string_view source() const noexcept { return source_; }

    std::optional<std::int64_t> integer(std::string_view key) const {
        const Json* value = find(key);
        if (value == nullptr) return std::nullopt;
        const Json& number = uniform(*value, key);
        constexpr std::int64_t limit = std::int64_t{1} << 40;
        if (!number.is_number_integer() || number > limit || number < -limit) wrong(key, *value, "an integer");
        return number.get<std::int64_t>();
    }

    std::int64_t size(std::string_view key) const {
        const auto value = integer(key);
        if (!value) missing(key);
        if (*value <= 0) wrong(key, *value, "a positive integer");
        return *value;
    }

    std::optional<double> number(std::string_view key) const {
        const Json* value = find(key);
        if (value == nullptr) return std::nullopt;
        if (!value->is_number() || !std::isfinite(value->get<double>())) wrong(key, *value, "a finite number");
        return as_written(value->get<double>());
    }

    std::optional<bool> boolean(std::string_view key) const {
        const Json* value = find(key);
        if (value == nullptr) return std::nullopt;
        if (!value->is_boolean()) wrong(key, *value, "a boolean");
        return value->get<bool>();
    }

    std::string text(std::string_view key, std::optional<std::string> otherwise = std::nullopt) const {
        const Json* value = find(key);
        if (value == nullptr && otherwise) return *otherwise;
        if (value == nullptr) missing(key);
        if (!value->is_string()) wrong(key, *value, "a string");
        return value->get<std::string>();
    }

    [[noreturn]] void wrong(std::string_view key, const Json& value, const char* expected) const {
        throw Error(ErrorCode::malformed, fmt::format("{}: {}: got {}, expected {}", source_, printable(full(key)),
                                                      printable(value.dump(-1, ' ', true, Json::error_handler_t::replace), 60), expected));
    }

private:
    std::string full(std::string_view key) const { return key.starts_with('.') ? architecture_ + std::string(key) : std::string(key); }

    const Json* find(std::string_view key) const {
        const auto it = values_.find(full(key));
        return it == values_.end() ? nullptr : &*it;
    }

    // Some keys may be arrays with a value for each layer; we know models whose layers agree.
    const Json& uniform(const Json& value, std::string_view key) const {
        if (!value.is_array() || value.empty()) return value;
        for (const Json& element : value)
            if (element != value.front())
                throw Error(ErrorCode::unsupported, fmt::format("{}: {} differs from layer to layer", source_, printable(full(key))));
        return value.front();
    }

    [[noreturn]] void missing(std::string_view key) const {
        throw Error(ErrorCode::malformed, fmt::format("{}: the metadata has no {}", source_, printable(full(key))));
    }

    const Json& values_;
    std::string_view source_;
    std::string architecture_;
};

// "llama" stands for Llama, Mistral and Mixtral: their graphs differ in the experts and the window.
const Architecture& architecture_of_gguf(const Metadata& metadata) {
    const std::string& name = metadata.architecture();
    if (name == "llama") {
        if (metadata.integer(".expert_count").value_or(0) > 0) return find_architecture("mixtral");
        return find_architecture(metadata.integer(".attention.sliding_window").value_or(0) > 0 ? "mistral" : "llama");
    }
    std::string known;
    for (const Architecture* row : registry()) {
        if (row->gguf_name == name) return *row;
        if (!row->gguf_name.empty() && known.find(row->gguf_name) == std::string::npos) known += (known.empty() ? "" : ", ") + std::string(row->gguf_name);
    }
    throw Error(ErrorCode::unsupported, fmt::format("{}: general.architecture \"{}\" is not supported", metadata.source(), printable(name)), "supported: " + known);
}

std::vector<float> read_floats(const TensorSource& tensors, const TensorInfo& info) {
    constexpr std::int64_t limit = 4096;
    if (info.dtype != Dtype::f32 || info.numel() > limit)
        throw Error(ErrorCode::unsupported, fmt::format("{}: tensor {} is not a short table of f32", tensors.where(info), printable(info.name)));
    std::vector<float> values(static_cast<std::size_t>(info.numel()));
    tensors.read(info, 0, std::as_writable_bytes(std::span(values)));
    return values;
}

// rope_parameters as transformers 5 spells them; without rope_theta.
Json rope_scaling(const Metadata& metadata, const TensorSource& tensors, double theta) {
    if (const TensorInfo* freqs = tensors.find("rope_freqs.weight"))
        if (Json llama3 = llama3_scaling_of(read_floats(tensors, *freqs), theta, metadata.source()); !llama3.is_null()) return llama3;
    const std::string type = metadata.text(".rope.scaling.type", "none");
    if (type == "none") return nullptr;
    if (type != "linear" && type != "yarn")
        throw Error(ErrorCode::unsupported, fmt::format("{}: rope scaling \"{}\" is not supported", metadata.source(), printable(type)));
    Json rope{{"rope_type", type}, {"factor", metadata.number(".rope.scaling.factor").value_or(1.0)}};
    if (type == "yarn") {
        rope["original_max_position_embeddings"] = metadata.size(".rope.scaling.original_context_length");
        for (const auto& [key, name] : {std::pair{".rope.scaling.yarn_beta_fast", "beta_fast"}, {".rope.scaling.yarn_beta_slow", "beta_slow"},
                                        {".rope.scaling.yarn_attn_factor", "attention_factor"}})
            if (const auto value = metadata.number(key)) rope[name] = *value;
    }
    return rope;
}

bool has_tensor(const TensorSource& tensors, std::int64_t layer, const char* suffix) {
    return tensors.find(fmt::format("blk.{}.{}", layer, suffix)) != nullptr;
}

void add_bias(Json& config, const BiasRule& rule, bool present) {
    if (!rule.config_key.empty() && !config.value(std::string(rule.config_key), false)) config[std::string(rule.config_key)] = present;
}

// Width of the shared experts, by their tensors: the keys are not in every file.
std::int64_t shared_width(const TensorSource& tensors, std::int64_t layer) {
    const TensorInfo* up = tensors.find(fmt::format("blk.{}.ffn_up_shexp.weight", layer));
    return up != nullptr && up->shape.size() == 2 ? up->shape[0] : 0;
}

void add_experts(Json& config, const Metadata& metadata, const TensorSource& tensors, const MoeTable& moe, std::int64_t layers) {
    config[std::string(moe.num_experts_keys.front())] = metadata.size(".expert_count");
    config["num_experts_per_tok"] = metadata.size(".expert_used_count");
    const std::int64_t width = metadata.integer(".expert_feed_forward_length").value_or(metadata.size(".feed_forward_length"));
    config[std::string(moe.expert_width_key)] = width;
    // Where the file does not say, llama.cpp's graphs do: Qwen3-MoE normalises, Qwen2-MoE and DeepSeek do not.
    if (moe.norm_topk == NormTopk::config_false || moe.norm_topk == NormTopk::config_true)
        config["norm_topk_prob"] = metadata.boolean(".expert_weights_norm").value_or(metadata.architecture() == "qwen3moe");

    Json dense = Json::array();
    for (std::int64_t layer = 0; layer < layers; ++layer)
        if (!has_tensor(tensors, layer, "ffn_gate_inp.weight")) dense.push_back(layer);
    if (moe.sparse_step) {
        config["decoder_sparse_step"] = 1;
        config["mlp_only_layers"] = dense;
    }
    if (moe.first_k_dense) {
        config["first_k_dense_replace"] = metadata.integer(".leading_dense_block_count").value_or(static_cast<std::int64_t>(dense.size()));
        config["moe_layer_freq"] = 1;
        config["routed_scaling_factor"] = metadata.number(".expert_weights_scale").value_or(1.0);
    }
    const std::int64_t shared = shared_width(tensors, layers - 1);
    if (!moe.shared_width_key.empty()) config[std::string(moe.shared_width_key)] = metadata.integer(".expert_shared_feed_forward_length").value_or(shared);
    if (!moe.num_shared_key.empty()) {
        const std::int64_t count = metadata.integer(".expert_shared_count").value_or(width > 0 ? shared / width : 0);
        config[std::string(moe.num_shared_key)] = count > 0 ? Json(count) : Json(nullptr);
    }
}

void add_attention(Json& config, const Metadata& metadata, const Architecture& architecture, const TensorSource& tensors) {
    const std::int64_t hidden = metadata.size(".embedding_length"), heads = metadata.size(".attention.head_count");
    const std::int64_t head_dim = metadata.integer(".attention.key_length").value_or(metadata.integer(".rope.dimension_count").value_or(hidden / heads));
    if (metadata.integer(".attention.value_length").value_or(head_dim) != head_dim)
        throw Error(ErrorCode::unsupported, fmt::format("{}: keys and values of different length", metadata.source()));
    if (metadata.integer(".rope.dimension_count").value_or(head_dim) != head_dim)
        throw Error(ErrorCode::unsupported, fmt::format("{}: rope on a part of the head", metadata.source()));
    config["hidden_size"] = hidden;
    config["num_attention_heads"] = heads;
    config["num_key_value_heads"] = metadata.integer(".attention.head_count_kv").value_or(heads);
    if (heads * head_dim != hidden || architecture.qk_norm == QkNorm::per_head) config["head_dim"] = head_dim;
    add_bias(config, architecture.qkv_bias, has_tensor(tensors, 0, "attn_q.bias"));
    add_bias(config, architecture.o_bias, has_tensor(tensors, 0, "attn_output.bias"));
    add_bias(config, architecture.mlp_bias, has_tensor(tensors, 0, "ffn_up.bias"));
    if (const auto window = metadata.integer(".attention.sliding_window"); window.value_or(0) > 0) {
        config["sliding_window"] = *window;
        if (metadata.architecture() != "llama") config["use_sliding_window"] = true;
    }
}

void add_rope(Json& config, const Metadata& metadata, const Architecture& architecture, const TensorSource& tensors) {
    const double theta = metadata.number(".rope.freq_base").value_or(architecture.default_rope_theta);
    if (theta <= 0) metadata.wrong(".rope.freq_base", theta, "a positive number");
    Json rope = rope_scaling(metadata, tensors, theta);
    if (rope.is_null()) rope = Json{{"rope_type", "default"}};
    rope["rope_theta"] = theta;
    config["rope_parameters"] = std::move(rope);
}

// bfloat16 unless the matrices are stored as f16 or f32 throughout.
Dtype natural_dtype(const TensorSource& tensors) {
    std::optional<Dtype> found;
    for (const TensorInfo& info : tensors.tensors()) {
        if (info.shape.size() < 2) continue;
        if (found && *found != info.dtype) return Dtype::bf16;
        found = info.dtype;
    }
    return found == Dtype::f16 ? Dtype::f16 : Dtype::bf16;
}

}  // namespace

Json llama3_scaling_of(std::span<const float> factors, double theta, std::string_view source) {
    if (std::ranges::all_of(factors, [](float f) { return f == 1.0f; })) return nullptr;
    const Error unknown(ErrorCode::unsupported, fmt::format("{}: rope_freqs is not the table of a llama3 rope scaling", source));
    if (std::ranges::any_of(factors, [](float f) { return !(f >= 1.0f) || !std::isfinite(f); })) throw unknown;

    // Between the two wavelengths 1/f = (1-s)/F + s with s = original/(high-low) / wavelen - low/(high-low): a line in
    // 1/wavelen. Only its two coefficients can be known; low = 1, as every published model has it, fixes the rest.
    const double F = as_written(*std::ranges::max_element(factors));
    const auto n = static_cast<double>(factors.size());
    double count = 0, sum_x = 0, sum_y = 0, sum_xx = 0, sum_xy = 0;
    for (std::size_t i = 0; i < factors.size(); ++i) {
        const double f = factors[i];
        if (f == 1.0 || f >= F * (1 - 1e-6)) continue;
        const double x = std::pow(theta, -static_cast<double>(i) / n) / (2 * std::numbers::pi);
        const double y = (1 / f - 1 / F) / (1 - 1 / F);
        count += 1, sum_x += x, sum_y += y, sum_xx += x * x, sum_xy += x * y;
    }
    if (count < 2) throw unknown;
    const double slope = (count * sum_xy - sum_x * sum_y) / (count * sum_xx - sum_x * sum_x);
    const double low = 1, high = 1 - count / (sum_y - slope * sum_x);
    const double original = slope * (high - low);
    if (!std::isfinite(original) || original < 1 || original > 1e9 || !(high > low)) throw unknown;

    Json rope{{"rope_type", "llama3"}, {"factor", F}, {"low_freq_factor", low}, {"high_freq_factor", std::round(high * 1000) / 1000},
              {"original_max_position_embeddings", std::llround(original)}};
    const double high_rounded = rope["high_freq_factor"], original_rounded = rope["original_max_position_embeddings"].get<double>();
    for (std::size_t i = 0; i < factors.size(); ++i) {
        const double x = original_rounded * std::pow(theta, -static_cast<double>(i) / n) / (2 * std::numbers::pi);
        const double s = std::clamp((x - low) / (high_rounded - low), 0.0, 1.0);
        if (std::abs(1 / ((1 - s) / F + s) / factors[i] - 1) > 1e-3) throw unknown;
    }
    return rope;
}

Json config_from_gguf(const Json& values, const TensorSource& tensors, std::string_view source) {
    const Metadata metadata(values, source);
    const Architecture& architecture = architecture_of_gguf(metadata);
    const TensorInfo* embedding = tensors.find("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2)
        throw Error(ErrorCode::malformed, fmt::format("{}: there is no matrix token_embd.weight", source),
                    "a GGUF with only a vocabulary or an adapter is not a model");

    Json config;
    config["architectures"] = {architecture.hf_class};
    config["model_type"] = architecture.model_type;
    config["vocab_size"] = embedding->shape[0];
    config["num_hidden_layers"] = metadata.size(".block_count");
    config["intermediate_size"] = metadata.size(".feed_forward_length");
    config["max_position_embeddings"] = metadata.size(".context_length");
    config["rms_norm_eps"] = metadata.number(".attention.layer_norm_rms_epsilon").value_or(architecture.default_rms_norm_eps);
    config["hidden_act"] = "silu";
    config["tie_word_embeddings"] = tensors.find("output.weight") == nullptr;
    constexpr std::int64_t max_layers = 1024;
    if (config["num_hidden_layers"] > max_layers) metadata.wrong(".block_count", config["num_hidden_layers"], "at most 1024");
    add_attention(config, metadata, architecture, tensors);
    add_rope(config, metadata, architecture, tensors);
    if (architecture.moe) add_experts(config, metadata, tensors, *architecture.moe, config["num_hidden_layers"].get<std::int64_t>());
    for (const auto& [key, name] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"}, {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                                    {"tokenizer.ggml.padding_token_id", "pad_token_id"}})
        if (const auto id = metadata.integer(key)) config[name] = *id;
    config["dtype"] = torch_name(natural_dtype(tensors));
    return config;
}

}  // namespace mixwright::arch
