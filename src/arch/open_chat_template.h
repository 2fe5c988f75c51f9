// The chat template of a model, wherever the model keeps it: beside a checkpoint, or inside a GGUF.
#pragma once

#include <optional>

#include "checkpoint/checkpoint.h"
#include "tokenizer/chat_template.h"

namespace mixwright::arch {

/// Nothing when the model has none. Error(malformed) when it cannot be parsed.
std::optional<tokenizer::ChatTemplate> open_chat_template(const checkpoint::Checkpoint& model);

}  // namespace mixwright::arch
