// The tokenizer and the chat template of a model, wherever the model keeps them: beside a checkpoint, or inside a GGUF.
#pragma once

#include <string_view>

#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::arch {

/// `model` as on the command line: a directory, a .gguf file, a hub name, or a tokenizer.json or tokenizer.model itself.
/// Error(not_found) when the model brings no tokenizer, Error(malformed) or Error(unsupported) naming file and place.
tokenizer::Tokenizer open_tokenizer(std::string_view model);

/// Nothing when the model has no chat template (a .gguf, a directory, or the directory of a tokenizer file).
std::optional<tokenizer::ChatTemplate> open_chat_template(std::string_view model);

}  // namespace mixwright::arch
