// The tokenizer of a model, wherever the model keeps it: beside a checkpoint, or inside a GGUF.
#pragma once

#include <string_view>

#include "tokenizer/tokenizer.h"

namespace mixwright::arch {

/// `model` as on the command line: a directory, a .gguf file, a hub name, or a tokenizer.json or tokenizer.model itself.
/// Error(not_found) when the model brings no tokenizer, Error(malformed) or Error(unsupported) naming file and place.
tokenizer::Tokenizer open_tokenizer(std::string_view model);

}  // namespace mixwright::arch
