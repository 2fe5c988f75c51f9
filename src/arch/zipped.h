// Experts that share rows of their gate and up projections, for every MoE architecture of the registry (ZippedExperts in
// architecture.h): the tables "zipped_X", and what their config.json says beyond X's.
#pragma once

#include <string_view>

#include "arch/architecture.h"
#include "arch/config_reader.h"

namespace mixwright::arch {

/// The table of "zipped_X" for a MoE architecture X whose experts are gated and have no biases; null for any other name.
const Architecture* zipped_form(std::string_view model_type);
/// The same for the architecture itself. Error(unsupported) when there is none.
const Architecture& zipped_form_of(const Architecture& architecture);
/// X of "zipped_X"; any other architecture is its own.
const Architecture& unzipped_form_of(const Architecture& architecture);

/// Fills in LayerSpec::zipped from `zipped_experts`, a list with an entry a layer, null where it is dense:
///     {"rows": [96, 40], "experts": [[0, 0, 64], [0, 32, 64], [1, 0, 40]]}
/// rows of each group; for each expert its group, its first row there and its width. Error(malformed) on windows outside their
/// rows, on widths beyond the experts' (expert_width), on groups without experts.
void parse_zipped(const ConfigReader& config, ModelSpec& spec);
io::Json zipped_json(const ZippedExperts& zipped);
/// The inverse of zipped_json(), unchecked beyond its types.
ZippedExperts zipped_from_json(const io::Json& json);

/// The same model without shared rows: architecture X, every expert `width` wide.
ModelSpec unzipped(const ModelSpec& spec, std::int64_t width);
/// Widest window of all layers; expert_width when none is zipped.
std::int64_t widest_expert(const ModelSpec& spec);

}  // namespace mixwright::arch
