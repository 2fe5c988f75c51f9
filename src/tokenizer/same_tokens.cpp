#include "tokenizer/same_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "error.h"

namespace mixwright::tokenizer {

TokenDifference compare_tokens(const Tokenizer& first, const Tokenizer& second) {
    constexpr std::size_t shown = 3;
    TokenDifference difference{.compared = std::min(first.vocab_size(), second.vocab_size())};
    for (std::size_t i = 0; i < difference.compared; ++i) {
        const auto id = static_cast<TokenId>(i);
        const std::string_view a = first.id_to_token(id), b = second.id_to_token(id);
        if (a == b) continue;
        if (++difference.differing <= shown)
            difference.examples += fmt::format("{}{} is \"{}\" and \"{}\"", difference.differing > 1 ? "; " : "", i, printable(a, 40), printable(b, 40));
    }
    if (difference.differing > shown) difference.examples += "; ...";
    return difference;
}

}  // namespace mixwright::tokenizer
