// Remembers the ids of short words: text repeats its words, and a hit costs less than one merge.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace mixwright::tokenizer {

class WordCache {
public:
    static constexpr std::size_t max_word = 15;

    /// The ids of `word` (1 to max_word bytes), or an empty span.
    std::span<const TokenId> find(std::string_view word) const noexcept {
        const Key key = key_of(word);
        for (std::size_t slot = slot_of(key);; slot = (slot + 1) & mask) {
            const Entry& entry = entries_[slot];
            if (entry.key == key) return {ids_.data() + entry.offset, entry.count};
            if (entry.count == 0) return {};
        }
    }

    /// Remembers `word` (not there yet, 1 to max_word bytes). Forgets everything once full.
    void insert(std::string_view word, std::span<const TokenId> ids) {
        if (ids.empty()) return;
        if (used_ == slots / 2) {
            entries_.assign(slots, {});
            ids_.clear();
            used_ = 0;
        }
        const Key key = key_of(word);
        std::size_t slot = slot_of(key);
        while (entries_[slot].count != 0) slot = (slot + 1) & mask;
        entries_[slot] = {key, static_cast<std::uint32_t>(ids_.size()), static_cast<std::uint32_t>(ids.size())};
        ids_.insert(ids_.end(), ids.begin(), ids.end());
        ++used_;
    }

private:
    // The bytes of the word, its length in the last one.
    using Key = std::array<std::uint64_t, 2>;
    struct Entry {
        Key key{};
        std::uint32_t offset = 0, count = 0;
    };
    static constexpr std::size_t slots = 1u << 16, mask = slots - 1;

    static Key key_of(std::string_view word) noexcept {
        char bytes[16] = {};
        std::memcpy(bytes, word.data(), word.size());
        bytes[15] = static_cast<char>(word.size());
        Key key;
        std::memcpy(key.data(), bytes, sizeof key);
        return key;
    }
    static std::size_t slot_of(const Key& key) noexcept {
        const std::uint64_t mixed = (key[0] ^ (key[1] * 0xC2B2AE3D27D4EB4Fu)) * 0x9E3779B97F4A7C15u;
        return (mixed >> 40) & mask;
    }

    std::vector<Entry> entries_ = std::vector<Entry>(slots);
    std::vector<TokenId> ids_;
    std::size_t used_ = 0;
};

}  // namespace mixwright::tokenizer
