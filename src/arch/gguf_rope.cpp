#include "arch/gguf_rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "error.h"

namespace mixwright::arch {

using checkpoint::TensorInfo;
using checkpoint::TensorSource;
using io::Json;

namespace {

std::vector<float> read_floats(const TensorSource& tensors, const TensorInfo& info) {
    constexpr std::int64_t limit = 4096;
    if (info.dtype != Dtype::f32 || info.numel() > limit)
        throw Error(ErrorCode::unsupported, fmt::format("{}: tensor {} is not a short table of f32", tensors.where(info), printable(info.name)));
    std::vector<float> values(static_cast<std::size_t>(info.numel()));
    tensors.read(info, 0, std::as_writable_bytes(std::span(values)));
    return values;
}

// The factors of the two lengths are tensors; the factor of the attention is said only when it is not the one that follows
// from the lengths.
Json longrope(const GgufMetadata& metadata, const TensorSource& tensors, const TensorInfo& long_factors, std::int64_t max_positions) {
    const TensorInfo* short_factors = tensors.find("rope_factors_short.weight");
    if (short_factors == nullptr) metadata.unsupported("rope_factors_long.weight without rope_factors_short.weight");
    const std::int64_t original = metadata.size(".rope.scaling.original_context_length");
    Json rope{{"rope_type", "longrope"}, {"original_max_position_embeddings", original}};
    const auto list = [&](const TensorInfo& info) {
        Json values = Json::array();
        for (const float value : read_floats(tensors, info)) values.push_back(as_written(value));
        return values;
    };
    rope["short_factor"] = list(*short_factors);
    rope["long_factor"] = list(long_factors);
    const double stretch = static_cast<double>(max_positions) / static_cast<double>(original);
    const double implied = stretch > 1 ? std::sqrt(1 + std::log(stretch) / std::log(static_cast<double>(original))) : 1.0;
    constexpr double float_precision = 1e-6;
    if (const auto factor = metadata.number(".rope.scaling.attn_factor"); factor && std::abs(*factor - implied) > float_precision * implied)
        rope["attention_factor"] = *factor;
    return rope;
}

Json yarn(const GgufMetadata& metadata, double factor) {
    Json rope{{"rope_type", "yarn"}, {"factor", factor}};
    rope["original_max_position_embeddings"] = metadata.size(".rope.scaling.original_context_length");
    for (const auto& [key, name] : {std::pair{".rope.scaling.yarn_beta_fast", "beta_fast"}, {".rope.scaling.yarn_beta_slow", "beta_slow"},
                                    {".rope.scaling.yarn_attn_factor", "attention_factor"}})
        if (const auto value = metadata.number(key)) rope[name] = *value;
    // DeepSeek's, a tenth of it. What mscale was the file does not say: in every published model both are one number.
    if (const auto tenth = metadata.number(".rope.scaling.yarn_log_multiplier")) rope["mscale"] = rope["mscale_all_dim"] = as_written(static_cast<float>(*tenth * 10));
    return rope;
}

}  // namespace

Json rope_scaling_of_gguf(const GgufMetadata& metadata, const TensorSource& tensors, double theta, std::int64_t max_positions) {
    if (const TensorInfo* freqs = tensors.find("rope_freqs.weight"))
        if (Json llama3 = llama3_scaling_of(read_floats(tensors, *freqs), theta, metadata.source()); !llama3.is_null()) return llama3;
    if (const TensorInfo* factors = tensors.find("rope_factors_long.weight")) return longrope(metadata, tensors, *factors, max_positions);
    const std::string type = metadata.text(".rope.scaling.type", "none");
    if (type == "none") return nullptr;
    const double factor = metadata.number(".rope.scaling.factor").value_or(1.0);
    if (type == "yarn") return yarn(metadata, factor);
    if (type != "linear") metadata.unsupported(fmt::format("rope scaling \"{}\" is not supported", printable(type)));
    return Json{{"rope_type", type}, {"factor", factor}};
}

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

}  // namespace mixwright::arch
