// A name for what an output will be: equal hashes mean equal bytes, so that a resumed run may keep what it finds.
#pragma once

#include <string>

#include "checkpoint/writer.h"

namespace mixwright::checkpoint {

/// SHA-256 over names, shapes, sources, factors and texts of the plan, and over name, size and time of every file that is
/// read. Weights are not read.
std::string plan_hash(const OutputPlan& plan, const OutputLayout& layout);

}  // namespace mixwright::checkpoint
