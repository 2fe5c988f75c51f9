// Token strings and their ids, both ways. It knows nothing of how text is cut into tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace mixwright::tokenizer {

using TokenId = std::int32_t;
constexpr TokenId no_token = -1;
constexpr std::size_t max_vocabulary = 4u << 20;

/// `json` as an id: an integer from 0 to max_vocabulary - 1. Error(malformed), naming `where`.
TokenId id_from_json(const io::Json& json, std::string_view where);

/// A fast hash of short byte strings.
std::uint64_t hash_bytes(std::string_view bytes) noexcept;

class Vocabulary {
public:
    /// Adds `token` under `id`; ids may come in any order and leave holes. When a token or an id comes twice, the first
    /// one stays: two strings may share an id (both are found), an id has one string. `id` in [0, max_vocabulary).
    void add(std::string_view token, TokenId id);
    /// {"token": id, ...}. Error(malformed), naming `source`, on ids that are no integers or out of range.
    static Vocabulary from_json(const io::Json& object, std::string_view source);

    /// The id of `token`, or no_token.
    TokenId find(std::string_view token) const noexcept;
    /// Whether `id` has a string.
    bool has(TokenId id) const noexcept;
    /// The string of `id`; empty for a hole or an id out of range.
    std::string_view token(TokenId id) const noexcept;
    /// Number of tokens, as Hugging Face counts them (strings, not ids).
    std::size_t size() const noexcept { return count_; }
    /// One more than the largest id.
    std::size_t id_limit() const noexcept { return by_id_.size(); }
    void reserve(std::size_t tokens);

private:
    struct Entry {
        std::size_t offset = 0;
        std::uint32_t length = 0;
        TokenId id = no_token;
    };
    std::string_view text(const Entry& entry) const noexcept { return {characters_.data() + entry.offset, entry.length}; }
    std::size_t slot_of(std::string_view token) const noexcept;
    void rehash(std::size_t slots);

    std::string characters_;
    std::vector<Entry> slots_;  // open addressing, a power of two
    std::vector<Entry> by_id_;
    std::size_t count_ = 0;
};

}  // namespace mixwright::tokenizer
