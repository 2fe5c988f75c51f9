// Chains of experts for every MoE architecture of the registry (Chain in architecture.h).
#pragma once

#include <string_view>

#include "arch/architecture.h"

namespace mixwright::arch {

/// The table of "chained_X" for a MoE architecture X; null for any other name.
const Architecture* chained_form(std::string_view model_type);
/// The same for the architecture itself: coe_deepseekv2 is its own. Error(unsupported) when it has no experts.
const Architecture& chained_form_of(const Architecture& architecture);

}  // namespace mixwright::arch
