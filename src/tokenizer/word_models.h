// The two models that look words up: WordLevel (whole words) and WordPiece (the longest known beginning, again and again).
#pragma once

#include <string>
#include <utility>

#include "io/json.h"
#include "tokenizer/model.h"

namespace mixwright::tokenizer {

class WordLevel final : public Model {
public:
    /// Words that are not there become `unknown_token`, or vanish when it is not there either.
    WordLevel(Vocabulary vocabulary, const std::string& unknown_token)
        : vocabulary_(std::move(vocabulary)), unknown_(vocabulary_.find(unknown_token)) {}

    void encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& ids) const override;
    const Vocabulary& vocabulary() const override { return vocabulary_; }
    TokenId unknown_id() const override { return unknown_; }

private:
    Vocabulary vocabulary_;
    TokenId unknown_;
};

class WordPiece final : public Model {
public:
    /// Words longer than `max_characters` are unknown.
    WordPiece(Vocabulary vocabulary, const std::string& unknown_token, std::string prefix, std::size_t max_characters);

    void encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& ids) const override;
    const Vocabulary& vocabulary() const override { return vocabulary_; }
    TokenId unknown_id() const override { return unknown_; }

private:
    Vocabulary vocabulary_;
    TokenId unknown_;
    std::string prefix_;  // of a token that continues a word
    std::size_t max_characters_;
};

/// The "model" of a tokenizer.json. Error(malformed).
WordLevel word_level_from_json(const io::Json& model, const std::string& where);
WordPiece word_piece_from_json(const io::Json& model, const std::string& where);

}  // namespace mixwright::tokenizer
