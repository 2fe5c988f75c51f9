// The Unigram model: of all ways to cut a text into tokens, the one whose scores add up to the most.
#pragma once

#include <string>
#include <vector>

#include "io/json.h"
#include "tokenizer/model.h"

namespace mixwright::tokenizer {

struct ScoredToken {
    std::string token;
    double score = 0;
};

class Unigram final : public Model {
public:
    /// Token i has id i. `unknown` may be no_token when every text can be written with the tokens.
    Unigram(std::vector<ScoredToken> tokens, TokenId unknown, bool byte_fallback);

    /// Error(failed) when the text needs an unknown token and there is none.
    void encode(std::string_view piece, Model::Scratch& scratch, std::vector<TokenId>& ids) const override;
    std::unique_ptr<Model::Scratch> make_scratch() const override;
    const Vocabulary& vocabulary() const override { return vocabulary_; }
    TokenId unknown_id() const override { return unknown_; }

private:
    struct Scratch;
    struct Node {
        std::uint32_t children = 0;  // where its children begin in nodes_
        TokenId id = no_token;
        std::uint16_t count = 0;
        unsigned char byte = 0;
    };

    void build_trie();
    const Node* child(const Node& node, unsigned char byte) const noexcept;
    void push_unknown(std::string_view text, std::vector<TokenId>& ids) const;

    Vocabulary vocabulary_;
    std::vector<double> scores_;
    std::vector<Node> nodes_;  // children of a node lie together, by byte
    TokenId unknown_;
    bool byte_fallback_;
    double unknown_score_ = 0;
};

/// The "model" of a tokenizer.json of type Unigram. Error(malformed).
Unigram unigram_from_json(const io::Json& model, const std::string& where);

}  // namespace mixwright::tokenizer
