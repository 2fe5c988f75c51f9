// A plan in words: what is built from what, how large it gets, how much memory the work takes.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/writer.h"
#include "io/json.h"
#include "surgery/moe_plan.h"

namespace mixwright::surgery {

/// Upper estimate of resident memory in bytes: while the gates are made, and while the output is written.
struct MemoryEstimate {
    std::uint64_t gates = 0, writing = 0;
};
MemoryEstimate estimate_memory(const BuildRecipe& recipe, const SourceModels& sources, const MoePlan& plan);

/// The table of `--dry-run`.
std::string plan_table(const BuildRecipe& recipe, const SourceModels& sources, const MoePlan& plan,
                       const checkpoint::OutputLayout& layout);

/// The same for `--json`.
io::Json plan_json(const BuildRecipe& recipe, const SourceModels& sources, const MoePlan& plan, const checkpoint::OutputLayout& layout);

}  // namespace mixwright::surgery
