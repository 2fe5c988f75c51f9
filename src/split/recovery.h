// How near the experts of a zipped model are to those of the model it was made from: what `zip` measured and wrote down.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arch/canonical.h"

namespace mixwright::split {

/// For each MoE layer the squared error of what `expert` says against what its source said, relative, on text held out when the model was
/// zipped; NaN where no token of it went there. Empty when there is no zip_report.json or it has no such figures. Error(malformed) when
/// the file does not fit the model.
std::vector<double> recovery_errors(const arch::OpenModel& moe, std::int64_t expert);

/// "Zipping left an error of 3.2 % in what this expert says (mean over layers, at worst 5.1 %)."; empty for an empty list.
std::string recovery_text(const std::vector<double>& errors);

}  // namespace mixwright::split
