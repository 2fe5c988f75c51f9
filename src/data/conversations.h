// Conversations as text to learn from: what the assistant says counts, what is said to it is only read.
#pragma once

#include <string_view>

#include "data/documents.h"
#include "tokenizer/chat_template.h"

namespace mixwright::data {

/// Renders the `messages` of a document with `chat` and marks the assistant's words: by the template's {% generation %}
/// blocks when it has them, else as what each assistant message adds to the prompt for it.
/// Error(mismatch) when the template refuses the conversation or rewrites earlier turns, so that they cannot be told apart.
ChatRenderer chat_renderer(tokenizer::ChatTemplate chat);
/// The renderer of a model (as on the command line); empty when it has no chat template.
ChatRenderer chat_renderer_of(std::string_view model);

}  // namespace mixwright::data
