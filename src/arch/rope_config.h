// Rotary embeddings out of a config.json: rope_theta and rope_scaling (transformers 4), rope_parameters (5).
#pragma once

#include "arch/architecture.h"
#include "arch/config_reader.h"

namespace mixwright::arch {

/// Error(unsupported) on a rope type we do not compute, Error(malformed) on a scaling that lacks its numbers.
Rope parse_rope(const ConfigReader& config, const Architecture& architecture, std::int64_t head_dim, std::int64_t max_positions);

/// The rope of layers with a sliding window, where it differs: rope_parameters.sliding_attention, or rope_local_base_freq.
Rope parse_local_rope(const ConfigReader& config, const Architecture& architecture, std::int64_t head_dim, std::int64_t max_positions);

/// Its name in config.json: "default", "linear", ...
std::string_view rope_scaling_name(RopeScaling scaling) noexcept;

}  // namespace mixwright::arch
