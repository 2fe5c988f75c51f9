// The token ids that end a text.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/canonical.h"

namespace mixwright::arch {

/// eos_token_id of generation_config.json when the model has that file (it is the one kept up to date: chat models list
/// their end-of-turn token there), else of config.json. Empty when neither says.
std::vector<std::int64_t> eos_token_ids(const OpenModel& model);

}  // namespace mixwright::arch
