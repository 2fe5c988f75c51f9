#include "tokenizer/vocabulary.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "checked.h"
#include "error.h"

namespace mixwright::tokenizer {

namespace {

// Numbers built by our own code are signed, those out of a file unsigned.
bool is_id(const io::Json& json) {
    if (json.is_number_unsigned()) return json.get<std::uint64_t>() < max_vocabulary;
    return json.is_number_integer() && json.get<std::int64_t>() >= 0 && json.get<std::int64_t>() < static_cast<std::int64_t>(max_vocabulary);
}

}  // namespace

TokenId id_from_json(const io::Json& json, std::string_view where) {
    if (!is_id(json))
        throw Error(ErrorCode::malformed, fmt::format("{}: expected an id from 0 to {} (got {})", where, max_vocabulary - 1,
                                                      printable(json.dump(-1, ' ', false, io::Json::error_handler_t::replace), 40)));
    return json.get<TokenId>();
}

std::uint64_t hash_bytes(std::string_view bytes) noexcept {
    constexpr std::uint64_t multiplier = 0x9E3779B97F4A7C15u;
    std::uint64_t hash = bytes.size() * multiplier;
    const auto mix = [&](std::uint64_t word) {
        hash = (hash ^ word) * multiplier;
        hash ^= hash >> 32;
    };
    while (bytes.size() >= 8) {
        std::uint64_t word;
        std::memcpy(&word, bytes.data(), 8);
        mix(word);
        bytes.remove_prefix(8);
    }
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), bytes.size());
    mix(word);
    return hash;
}

std::size_t Vocabulary::slot_of(std::string_view token) const noexcept {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = hash_bytes(token) & mask;
    while (slots_[slot].id != no_token && text(slots_[slot]) != token) slot = (slot + 1) & mask;
    return slot;
}

void Vocabulary::rehash(std::size_t slots) {
    std::vector<Entry> old(slots);
    old.swap(slots_);
    for (const Entry& entry : old)
        if (entry.id != no_token) slots_[slot_of(text(entry))] = entry;
}

void Vocabulary::reserve(std::size_t tokens) {
    if (const std::size_t slots = std::bit_ceil(tokens * 2 + 16); slots > slots_.size()) rehash(slots);
}

void Vocabulary::add(std::string_view token, TokenId id) {
    if (id < 0 || static_cast<std::size_t>(id) >= max_vocabulary)
        throw Error(ErrorCode::malformed, fmt::format("token \"{}\": the id is out of range (got {}, limit {})",
                                                      printable(token), id, max_vocabulary));
    reserve(count_ + 1);
    Entry& slot = slots_[slot_of(token)];
    if (slot.id != no_token) return;
    slot = {characters_.size(), checked_cast<std::uint32_t>(token.size(), "token length"), id};
    characters_ += token;
    ++count_;
    if (static_cast<std::size_t>(id) >= by_id_.size()) by_id_.resize(static_cast<std::size_t>(id) + 1);
    Entry& by_id = by_id_[static_cast<std::size_t>(id)];
    if (by_id.id == no_token) by_id = slot;
}

Vocabulary Vocabulary::from_json(const io::Json& object, std::string_view source) {
    if (!object.is_object()) throw Error(ErrorCode::malformed, fmt::format("{}: the vocabulary is not an object", source));
    if (object.size() > max_vocabulary)
        throw Error(ErrorCode::malformed,
                    fmt::format("{}: too many tokens (got {}, limit {})", source, object.size(), max_vocabulary));
    Vocabulary vocabulary;
    vocabulary.reserve(object.size());
    for (const auto& [token, id] : object.items()) {
        if (!is_id(id)) id_from_json(id, fmt::format("{}: token \"{}\"", source, printable(token)));  // throws
        vocabulary.add(token, id.get<TokenId>());
    }
    return vocabulary;
}

TokenId Vocabulary::find(std::string_view token) const noexcept {
    return slots_.empty() ? no_token : slots_[slot_of(token)].id;
}

bool Vocabulary::has(TokenId id) const noexcept {
    return id >= 0 && static_cast<std::size_t>(id) < by_id_.size() && by_id_[static_cast<std::size_t>(id)].id != no_token;
}

std::string_view Vocabulary::token(TokenId id) const noexcept {
    return has(id) ? text(by_id_[static_cast<std::size_t>(id)]) : std::string_view{};
}

}  // namespace mixwright::tokenizer
