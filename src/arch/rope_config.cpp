#include "arch/rope_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "error.h"

namespace mixwright::arch {
namespace {

constexpr double largest = 1e12;  // no published theta, factor or length comes near

struct RopeName {
    std::string_view name;
    RopeScaling scaling;
};
constexpr std::array rope_names{
    RopeName{"default", RopeScaling::none},  RopeName{"linear", RopeScaling::linear},
    RopeName{"dynamic", RopeScaling::dynamic}, RopeName{"llama3", RopeScaling::llama3},
    RopeName{"yarn", RopeScaling::yarn},     RopeName{"longrope", RopeScaling::longrope},
    RopeName{"su", RopeScaling::longrope},   // the name longrope had in early Phi-3 configs
};

RopeScaling scaling_named(const std::string& name, const std::string& source) {
    for (const RopeName& row : rope_names)
        if (row.name == name) return row.scaling;
    throw Error(ErrorCode::unsupported, fmt::format("{}: rope type \"{}\" is not supported", source, printable(name)),
                "supported: default, linear, dynamic, llama3, yarn, longrope");
}

double require(const ConfigReader& config, std::string_view key, double min, double max) {
    const auto value = config.number(key, min, max);
    if (!value) config.fail(key, "is missing");
    return *value;
}

}  // namespace

std::string_view rope_scaling_name(RopeScaling scaling) noexcept {
    return std::ranges::find(rope_names, scaling, &RopeName::scaling)->name;
}

namespace {

Rope parse_rope_object(const ConfigReader& config, const io::Json& object, const Architecture& architecture, std::int64_t head_dim,
                       std::int64_t max_positions) {
    const ConfigReader rope_config(object, config.source() + ": rope");

    Rope rope;
    rope.theta = rope_config.number("rope_theta", 1.0, largest)
                     .value_or(config.number("rope_theta", 1.0, largest).value_or(architecture.default_rope_theta));
    rope.partial = rope_config.number("partial_rotary_factor", 0.01, 1.0)
                       .value_or(config.number("partial_rotary_factor", 0.01, 1.0).value_or(architecture.default_partial_rotary));
    rope.interleaved = architecture.rope_interleaved;
    if (!architecture.rope_interleaved_key.empty()) rope.interleaved = config.boolean(architecture.rope_interleaved_key).value_or(rope.interleaved);

    const auto type = rope_config.text("rope_type");
    rope.scaling = scaling_named(type ? *type : rope_config.text("type").value_or("default"), config.source());
    if (rope.scaling == RopeScaling::none) return rope;

    // Phi-3 and its like keep the pretraining length beside the rope object, where it has priority.
    rope.original_max_positions =
        config.number("original_max_position_embeddings", 1.0, largest)
            .value_or(rope_config.number("original_max_position_embeddings", 1.0, largest)
                          .value_or(static_cast<double>(max_positions)));
    const double length_ratio = static_cast<double>(max_positions) / rope.original_max_positions;
    const bool factor_optional = rope.scaling == RopeScaling::yarn || rope.scaling == RopeScaling::longrope;
    rope.factor = factor_optional ? rope_config.number("factor", 1e-6, largest).value_or(length_ratio)
                                  : require(rope_config, "factor", 1e-6, largest);
    rope.attention_factor = rope_config.number("attention_factor", 0.0, largest);
    rope.short_mscale = rope_config.number("short_mscale", 0.0, largest);
    rope.long_mscale = rope_config.number("long_mscale", 0.0, largest);

    if (rope.scaling == RopeScaling::llama3) {
        rope.low_freq_factor = require(rope_config, "low_freq_factor", 1e-6, largest);
        rope.high_freq_factor = require(rope_config, "high_freq_factor", 1e-6, largest);
    } else if (rope.scaling == RopeScaling::yarn) {
        rope.beta_fast = rope_config.number("beta_fast", 0.0, largest).value_or(32.0);
        rope.beta_slow = rope_config.number("beta_slow", 0.0, largest).value_or(1.0);
        rope.mscale = rope_config.number("mscale", 0.0, largest);
        rope.mscale_all_dim = rope_config.number("mscale_all_dim", 0.0, largest);
        rope.truncate = rope_config.boolean("truncate").value_or(true);
    } else if (rope.scaling == RopeScaling::longrope) {
        const auto pairs = static_cast<std::size_t>(static_cast<double>(head_dim) * rope.partial) / 2;
        rope.short_factor = rope_config.numbers("short_factor", 1e-6, largest, 65536);
        rope.long_factor = rope_config.numbers("long_factor", 1e-6, largest, 65536);
        for (const auto& [name, factors] : {std::pair{"short_factor", &rope.short_factor}, {"long_factor", &rope.long_factor}})
            if (factors->size() != pairs)
                rope_config.fail(name, fmt::format("wrong length (got {}, expected {})", factors->size(), pairs));
    }
    return rope;
}

const io::Json& rope_object(const ConfigReader& config) {
    static const io::Json empty = io::Json::object();
    // Where both spellings stand (mergekit, our own outputs) they agree; the newer one is the one kept up to date.
    const io::Json* object = config.find("rope_parameters");
    if (object == nullptr) object = config.find("rope_scaling");
    return object != nullptr ? *object : empty;
}

}  // namespace

Rope parse_rope(const ConfigReader& config, const Architecture& architecture, std::int64_t head_dim, std::int64_t max_positions) {
    const io::Json& object = rope_object(config);
    const io::Json* nested = architecture.local_rope ? find_path(object, "full_attention") : nullptr;
    return parse_rope_object(config, nested != nullptr ? *nested : object, architecture, head_dim, max_positions);
}

Rope parse_local_rope(const ConfigReader& config, const Architecture& architecture, std::int64_t head_dim, std::int64_t max_positions) {
    if (const io::Json* nested = find_path(rope_object(config), "sliding_attention"))
        return parse_rope_object(config, *nested, architecture, head_dim, max_positions);
    Rope rope;
    rope.theta = config.number("rope_local_base_freq", 1.0, largest).value_or(10000.0);
    rope.partial = architecture.default_partial_rotary;
    rope.interleaved = architecture.rope_interleaved;
    return rope;
}

}  // namespace mixwright::arch
