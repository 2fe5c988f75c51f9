// What `split` is asked for: a method, and the experts it concerns.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arch/architecture.h"

namespace mixwright::split {

enum class Method { slice, mean, slerp, concat, routed, fit };

/// Error(usage) with the nearest name.
Method parse_method(std::string_view name);
std::string_view method_name(Method method);
bool needs_data(Method method);

/// What becomes of the shared expert: its neurons join those of the chosen ones, or it is left out.
enum class Shared { concat, drop };

/// The experts of each MoE layer, [layers][how many]: what a file of --experts-per-layer says. A JSON list with an entry
/// for every MoE layer, a number or a list of numbers. Error(recipe) naming file and entry.
std::vector<std::vector<std::int64_t>> read_experts_per_layer(const std::filesystem::path& file, const arch::ModelSpec& moe);

/// Error(usage) when `expert` is none of `moe`'s.
void check_expert(std::int64_t expert, const arch::ModelSpec& moe);

}  // namespace mixwright::split
