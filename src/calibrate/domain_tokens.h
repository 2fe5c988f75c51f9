// Text of one domain as sequences of token ids, some of them held out.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/documents.h"
#include "model/layer_stream.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::calibrate {

struct DomainTokens {
    std::vector<model::StreamedBatch> fit, held_out;  // [B, L] each, without padding
    std::int64_t num_fit = 0, num_held_out = 0;       // tokens

    /// Those to fit to, then those held out.
    std::vector<model::StreamedBatch> all() const;
    /// Of the first `tokens` held-out tokens, for a quick look.
    std::vector<model::StreamedBatch> sample(std::int64_t tokens) const;
};

struct DomainSettings {
    std::int64_t tokens = 12'000;  // read at most so many
    std::int64_t context = 512;    // of one sequence; shorter when there is little text
    double held_out = 0.15;        // share of the sequences, spread evenly
};

/// All documents of `files` (conversations as `render_chat` writes them), mixed: a file often holds one kind of text after the other, and
/// what is taken of it has to be of all. The same order every time.
std::vector<data::Document> mixed_documents(const std::vector<std::filesystem::path>& files, const data::ChatRenderer& render_chat);

/// `ids` cut into sequences of equal length, every so many of them held out. Error(malformed) when they are too few for two
/// sequences, Error(mismatch) on a token beyond `vocab_size`. `who` is for the message: "expert 2".
DomainTokens cut_domain(std::vector<tokenizer::TokenId> ids, const DomainSettings& settings, std::int64_t vocab_size, const std::string& who);

/// mixed_documents() of `files`, or `prompts` when there are none, cut into sequences by cut_domain().
DomainTokens read_domain(const tokenizer::Tokenizer& tokenizer, const data::ChatRenderer& render_chat, const std::vector<std::filesystem::path>& files,
                         const std::vector<std::string>& prompts, const DomainSettings& settings, std::int64_t vocab_size,
                         const std::string& who);

}  // namespace mixwright::calibrate
