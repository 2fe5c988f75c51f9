// GGUF names the pre-tokenizer of a byte-level BPE model by a word (tokenizer.ggml.pre). This table says what each word
// means in tokenizer.json.
#pragma once

#include <string_view>

#include "io/json.h"

namespace mixwright::tokenizer {

struct GgufPreTokenizer {
    io::Json normalizer;          // null: none
    io::Json pre_tokenizer;
    bool ignore_merges = false;
    bool add_bos = false;         // when the file does not say
};

/// Error(unsupported), naming `source`, for a word that is not known.
GgufPreTokenizer gguf_pre_tokenizer(std::string_view pre, std::string_view source);

}  // namespace mixwright::tokenizer
