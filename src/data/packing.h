// Documents as token ids, end to end in one stream, and the stream cut into sequences of one length.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/documents.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::data {

/// Documents one after another, each closed by the end-of-text token.
struct TokenStream {
    std::vector<tokenizer::TokenId> ids;
    std::vector<std::uint8_t> learn;  // 1 where a loss counts the prediction of that token

    std::size_t size() const noexcept { return ids.size(); }
};

/// Encodes `documents`, segment by segment, stopping at the end of the document that reaches `max_tokens` (0: all).
/// A document gets the special tokens its tokenizer puts around a text and `end_of_text` behind it, unless it has its own.
TokenStream tokenize(std::span<const Document> documents, const tokenizer::Tokenizer& tokenizer,
                     std::optional<tokenizer::TokenId> end_of_text, std::size_t max_tokens = 0);

/// Equal sequences cut out of a stream: sequence i reads tokens [i L, i L + L) and predicts [i L + 1, i L + L + 1), so that
/// every token but the first is predicted once. What is left at the end is dropped.
class PackedSequences {
public:
    PackedSequences() = default;
    /// `length` is at least 1.
    PackedSequences(TokenStream stream, std::size_t length);

    std::size_t length() const noexcept { return length_; }
    std::size_t size() const noexcept { return begins_.size(); }
    /// Tokens whose prediction counts, over all sequences.
    std::size_t num_learnt() const noexcept;
    /// [length] each.
    std::span<const tokenizer::TokenId> inputs(std::size_t i) const { return {ids_.data() + begins_[i], length_}; }
    std::span<const tokenizer::TokenId> targets(std::size_t i) const { return {ids_.data() + begins_[i] + 1, length_}; }
    std::span<const std::uint8_t> learn(std::size_t i) const { return {learn_.data() + begins_[i] + 1, length_}; }

    /// Moves out about `share` of the sequences, spread evenly and at least one (when there are two): the same ones every time.
    PackedSequences take_held_out(double share);

private:
    std::vector<tokenizer::TokenId> ids_;
    std::vector<std::uint8_t> learn_;
    std::vector<std::size_t> begins_;
    std::size_t length_ = 0;
};

/// A permutation of 0 .. count-1 that depends on `seed` and `epoch` alone, on every machine: Fisher-Yates over splitmix64.
std::vector<std::uint32_t> shuffled_order(std::size_t count, std::uint64_t seed, std::uint64_t epoch);

}  // namespace mixwright::data
