// What differs from layer to layer, out of a config.json: dense or MoE, windows, rope or none, chains.
#pragma once

#include <vector>

#include "arch/architecture.h"
#include "arch/config_reader.h"

namespace mixwright::arch {

/// One LayerSpec a layer. Error(malformed) on lists of another length than `num_layers`.
std::vector<LayerSpec> parse_layers(const ConfigReader& config, const Architecture& architecture, std::int64_t num_layers);

/// The chain of a MoE layer in the keys of coe_deepseekv2 (inner_iter, use_igate, inner_residual, outer_residual, or
/// `residual`: "inner", "outer", "addinit", "none").
Chain parse_chain(const ConfigReader& config, std::int64_t layer, std::int64_t num_layers);

}  // namespace mixwright::arch
