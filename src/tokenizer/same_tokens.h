// Whether two tokenizers give the same ids to the same tokens.
#pragma once

#include <cstddef>
#include <string>

#include "tokenizer/tokenizer.h"

namespace mixwright::tokenizer {

struct TokenDifference {
    std::size_t compared = 0;    // ids that both have
    std::size_t differing = 0;   // of those, how many are another token
    std::string examples;        // `7 is "a" and "b"`: the first few, fit to be printed
};

TokenDifference compare_tokens(const Tokenizer& first, const Tokenizer& second);

}  // namespace mixwright::tokenizer
