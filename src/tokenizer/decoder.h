// Tokens back to text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/json.h"

namespace mixwright::tokenizer {

/// Tokens in, pieces of text out; their concatenation is the text. ByteLevel may leave invalid UTF-8 in it.
using Decoder = std::function<void(std::vector<std::string>&)>;

/// The "decoder" of a tokenizer.json; empty for null (then tokens are joined by spaces). Error(unsupported) for an unknown kind.
Decoder make_decoder(const io::Json& json, const std::string& where);

}  // namespace mixwright::tokenizer
