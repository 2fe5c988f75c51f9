// The steps of one tokenizer, in the order text goes through them. Readers of the file formats fill it in.
#pragma once

#include <memory>
#include <string>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pre_tokenizer.h"

namespace mixwright::tokenizer {

/// Special tokens by their role; no_token: there is none.
struct SpecialRoles {
    TokenId bos = no_token, eos = no_token, pad = no_token, unk = no_token;
};

struct Pipeline {
    AddedTokens added;
    Normalizer normalizer;        // may be empty
    PreTokenizer pre_tokenizer;
    std::unique_ptr<const Model> model;
    PostProcessor post_processor;
    Decoder decoder;              // may be empty
    SpecialRoles roles;
};

}  // namespace mixwright::tokenizer
