// Tokens that are found in the text before anything else happens to it: special tokens and others added to a model.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/json.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/regex.h"
#include "tokenizer/vocabulary.h"

namespace mixwright::tokenizer {

struct AddedToken {
    TokenId id = no_token;
    std::string content;
    bool single_word = false;  // not inside a longer word
    bool lstrip = false;       // takes the white space before it
    bool rstrip = false;       // takes the white space behind it
    bool normalized = false;   // looked for in the normalized text
    bool special = false;      // left out by decode(skip_special)
    std::string written = {};  // what decoders get: the content, normalized where it is looked for there
};

/// One entry of "added_tokens" in tokenizer.json. Error(malformed).
AddedToken added_token_from_json(const io::Json& json, const std::string& where);

/// Finds many strings at once: at each place the longest one.
class StringFinder {
public:
    static constexpr std::size_t max_length = 4096;
    struct Match {
        Range range;
        std::size_t index;  // in order of add()
    };

    /// Error(unsupported) when `text` is longer than max_length. Of equal strings the first counts. Empty ones are never found.
    void add(std::string_view text);
    bool empty() const noexcept { return nodes_.size() == 1; }
    /// The first match at or behind `from`; false when there is none.
    bool find(std::string_view text, std::size_t from, Match& match) const noexcept;

private:
    static constexpr std::uint32_t none = ~std::uint32_t{0};
    struct Node {
        std::uint32_t first_child = none, sibling = none, index = none;
        unsigned char byte = 0;
    };
    std::uint32_t child(std::uint32_t node, unsigned char byte) const noexcept;
    bool longest(std::string_view text, std::size_t at, Match& match) const noexcept;

    std::vector<Node> nodes_ = std::vector<Node>(1);
    std::array<bool, 256> starts_{};
    std::uint32_t count_ = 0;
};

class AddedTokens {
public:
    struct Segment {
        Range range;
        TokenId id = no_token;  // no_token: ordinary text
    };

    /// Adds a token. As in Hugging Face tokenizers, one the model knows has the model's id and any other gets the next
    /// id behind all others, whatever its entry says. Empty and repeated ones are passed over.
    void add(AddedToken token, const Vocabulary& model);
    /// Builds the finders; call once after the last add().
    void prepare(const Normalizer& normalizer);

    /// Cuts `text` at the tokens that are looked for before (`normalized` false) or after normalization. With
    /// `parse_special` false special tokens are ordinary text. Appends segments that cover `text`.
    void split(std::string_view text, bool normalized, bool parse_special, std::vector<Segment>& segments) const;
    bool any(bool normalized) const noexcept { return !(normalized ? in_normalized_ : in_original_).finder.empty(); }

    const AddedToken* find(TokenId id) const noexcept;
    const AddedToken* find(std::string_view content) const noexcept;
    const std::vector<AddedToken>& tokens() const noexcept { return tokens_; }

private:
    struct Group {
        StringFinder finder;
        std::vector<std::size_t> token;  // of each string of the finder: index into tokens_
    };

    std::vector<AddedToken> tokens_;
    std::unordered_map<TokenId, std::size_t> by_id_;
    std::unordered_map<std::string, std::size_t> by_content_;
    Group in_original_, in_normalized_;
    TokenId largest_ = no_token;
};

}  // namespace mixwright::tokenizer
