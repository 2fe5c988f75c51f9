// ModelSpec -> config.json, the inverse of parse_config: for models we make.
#pragma once

#include "arch/architecture.h"
#include "io/json.h"

namespace mixwright::arch {

/// config.json in the spellings of transformers 4 and 5 at once, so that old and new readers load it.
/// parse_config of the result is `spec` again. Error(unsupported) when the architecture cannot say what the spec holds
/// (a bias, a sliding window, which layers are dense).
io::Json render_config(const ModelSpec& spec);

/// What keeps `architecture` from saying what `spec` holds; empty when it can say all of it.
std::vector<std::string> inexpressible(const ModelSpec& spec, const Architecture& architecture);

}  // namespace mixwright::arch
