// The last step of tokenizing: the special tokens around a text.
#pragma once

#include <string>
#include <vector>

#include "io/json.h"
#include "tokenizer/vocabulary.h"

namespace mixwright::tokenizer {

/// What is put before and behind the ids of a text.
struct PostProcessor {
    std::vector<TokenId> before, behind;

    /// The "post_processor" of a tokenizer.json (null: nothing is added), as far as single texts go.
    /// Error(unsupported) for an unknown kind.
    static PostProcessor from_json(const io::Json& json, const std::string& where);
};

}  // namespace mixwright::tokenizer
