// Chains of experts for every MoE architecture of the registry (Chain in architecture.h), and the module that teaches
// transformers to run them.
#pragma once

#include <string>
#include <string_view>

#include "arch/architecture.h"

namespace mixwright::arch {

/// The table of "chained_X" for a MoE architecture X; null for any other name.
const Architecture* chained_form(std::string_view model_type);
/// The same for the architecture itself: coe_deepseekv2 is its own. Error(unsupported) when it has no experts.
const Architecture& chained_form_of(const Architecture& architecture);

/// Code that goes with the weights of a chained model. A default one of `text` when transformers needs none.
struct RemoteCode {
    std::string file;      // "modeling_coe_deepseekv2.py"
    std::string text;
    io::Json auto_map;     // of config.json
};
RemoteCode remote_code(const ModelSpec& spec);

}  // namespace mixwright::arch
