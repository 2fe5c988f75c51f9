// What an interrupted run leaves behind: the number of steps done, masters and optimiser state, in one safetensors file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/ownership.h"

namespace mixwright::train {

/// Writes `steps_done`, the state of `parameters` and `identity` (of the run: what must be equal for a resumed run to end in
/// the same bytes), replacing `path` once the new file is whole. All ranks call it together, the first one writes: the file does
/// not tell how many there were.
void save_state(const std::filesystem::path& path, const std::vector<Parameter>& parameters, std::int64_t steps_done, const std::string& identity, const distributed::Ranks& ranks);

/// Reads back what this rank keeps of `parameters`; returns the steps done. Error(mismatch) when it belongs to another run.
std::int64_t load_state(const std::filesystem::path& path, std::vector<Parameter>& parameters, const std::string& identity, const distributed::Ranks& ranks);

}  // namespace mixwright::train
