// Byte-pair encoding: the pair of neighbours with the lowest rank is merged first, the leftmost one among equals.
// It knows nothing of where a piece of text came from.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "tokenizer/model.h"

namespace mixwright::tokenizer {

/// Two neighbouring tokens -> the rank of their merge and its result.
class MergeTable {
public:
    struct Merge {
        std::uint32_t rank = no_rank;
        TokenId result = no_token;
    };
    static constexpr std::uint32_t no_rank = ~std::uint32_t{0};

    void reserve(std::size_t merges);
    /// A pair that comes twice keeps its last rank, as in Hugging Face tokenizers.
    void set(TokenId left, TokenId right, Merge merge);
    Merge find(TokenId left, TokenId right) const noexcept {
        const std::uint64_t key = key_of(left, right);
        for (std::size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
            if (slots_[slot].key == key) return slots_[slot].merge;
            if (slots_[slot].key == empty) return {};
        }
    }

private:
    static constexpr std::uint64_t empty = ~std::uint64_t{0};
    struct Slot {
        std::uint64_t key = empty;
        Merge merge;
    };
    static std::uint64_t key_of(TokenId left, TokenId right) noexcept {
        return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
    }
    std::size_t slot_of(std::uint64_t key) const noexcept { return (key * 0x9E3779B97F4A7C15u) >> 20 & mask_; }

    std::vector<Slot> slots_ = std::vector<Slot>(16);
    std::size_t mask_ = 15, used_ = 0;
};

struct BpeOptions {
    std::string unknown_token;            // empty: unknown characters vanish
    std::string continuing_subword_prefix, end_of_word_suffix;
    bool fuse_unknown = false;
    bool byte_fallback = false;
    bool ignore_merges = false;           // a piece that is a token as a whole is that token
    bool raw_bytes = false;               // pieces are bytes; the vocabulary writes them in the byte alphabet
};

class Bpe final : public Model {
public:
    /// `merges` in order of rank. Error(malformed), naming `source`, when a merge names a token that is not there.
    Bpe(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges, BpeOptions options,
        std::string_view source);

    void encode(std::string_view piece, Model::Scratch& scratch, std::vector<TokenId>& ids) const override;
    std::unique_ptr<Model::Scratch> make_scratch() const override;
    const Vocabulary& vocabulary() const override { return vocabulary_; }
    TokenId unknown_id() const override { return unknown_; }

private:
    struct Scratch;

    void find_boundary(const std::vector<std::pair<std::string, std::string>>& merges);
    void encode_word(std::string_view word, Scratch& scratch, std::vector<TokenId>& ids) const;
    void start_symbols(std::string_view word, Scratch& scratch) const;
    TokenId character_id(std::string_view character, bool first, bool last) const;
    void merge_few(Scratch& scratch, std::vector<TokenId>& ids) const;
    void merge_many(Scratch& scratch, std::vector<TokenId>& ids) const;

    Vocabulary vocabulary_;
    Vocabulary raw_;                       // tokens as raw bytes, when options_.raw_bytes
    MergeTable merges_;
    BpeOptions options_;
    TokenId unknown_ = no_token;
    std::array<TokenId, 256> byte_ids_{};  // of one-byte pieces (raw_bytes), or of "<0xNN>"
    std::array<TokenId, 128> ascii_ids_{};
    bool cut_at_space_mark_ = false;       // no merge crosses from another character to U+2581
};

}  // namespace mixwright::tokenizer
