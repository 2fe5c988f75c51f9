// The first step of tokenizing: rewriting text before it is cut (Unicode forms, replacements, a leading space mark).
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "io/json.h"

namespace mixwright::tokenizer {

/// Valid UTF-8 in, valid UTF-8 out.
using Normalizer = std::function<std::string(std::string_view)>;

/// The "normalizer" of a tokenizer.json; empty for null. Error(unsupported) for an unknown kind, naming `where`.
Normalizer make_normalizer(const io::Json& json, const std::string& where);

}  // namespace mixwright::tokenizer
