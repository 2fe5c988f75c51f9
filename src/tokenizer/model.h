// The part of a tokenizer that turns one piece of text into ids: BPE, Unigram, WordLevel, WordPiece, SentencePiece.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace mixwright::tokenizer {

class Model {
public:
    /// What encode() writes to besides its result: buffers, a cache of words. One is used by one thread at a time.
    struct Scratch {
        virtual ~Scratch() = default;
    };

    virtual ~Model() = default;
    /// Appends the ids of `piece`. `scratch` comes from make_scratch() of the same model.
    virtual void encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& ids) const = 0;
    virtual std::unique_ptr<Scratch> make_scratch() const { return std::make_unique<Scratch>(); }
    /// Tokens as they are written in the file.
    virtual const Vocabulary& vocabulary() const = 0;
    virtual TokenId unknown_id() const { return no_token; }
};

}  // namespace mixwright::tokenizer
