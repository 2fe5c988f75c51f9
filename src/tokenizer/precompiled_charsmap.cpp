#include "tokenizer/precompiled_charsmap.h"

#include <utf8proc.h>

#include <cstring>

#include "error.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

std::optional<std::string> decode_base64(std::string_view text) {
    constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (text.size() % 4 != 0) return std::nullopt;
    while (text.ends_with('=')) text.remove_suffix(1);
    std::string out;
    out.reserve(text.size() / 4 * 3 + 3);
    std::uint32_t bits = 0;
    int count = 0;
    for (const char c : text) {
        const auto digit = digits.find(c);
        if (digit == digits.npos) return std::nullopt;
        bits = bits << 6 | static_cast<std::uint32_t>(digit);
        count += 6;
        if (count < 8) continue;
        count -= 8;
        out.push_back(static_cast<char>(bits >> count & 0xFF));
    }
    return out;
}

// A unit of the double array: bit 31 marks a leaf, bit 9 widens the offset, bit 8 says that a leaf hangs below.
constexpr std::uint32_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
constexpr std::uint32_t label_of(std::uint32_t unit) { return unit & (1u << 31 | 0xFF); }

}  // namespace

PrecompiledCharsmap PrecompiledCharsmap::from_base64(std::string_view text, const std::string& where) {
    const auto bytes = decode_base64(text);
    if (!bytes) throw Error(ErrorCode::malformed, where + ".precompiled_charsmap: not valid base64");
    std::uint32_t trie_bytes = 0;
    if (bytes->size() >= 4) std::memcpy(&trie_bytes, bytes->data(), 4);
    if (bytes->size() < 4 || trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > bytes->size() - 4)
        throw Error(ErrorCode::malformed, where + ".precompiled_charsmap: the size of the trie does not fit the data");
    auto data = std::make_shared<Data>();
    data->trie.resize(trie_bytes / 4);
    std::memcpy(data->trie.data(), bytes->data() + 4, trie_bytes);
    data->replacements = bytes->substr(4 + trie_bytes);
    if (valid_utf8_prefix(data->replacements) != data->replacements.size())
        throw Error(ErrorCode::malformed, where + ".precompiled_charsmap: the replacements are not UTF-8");
    PrecompiledCharsmap map;
    map.data_ = std::move(data);
    return map;
}

// The replacement of the shortest sequence that `characters` begins with.
std::optional<std::string_view> PrecompiledCharsmap::replacement(std::string_view characters) const {
    const auto& trie = data_->trie;
    std::uint32_t node = offset_of(trie[0]);
    for (const char c : characters) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte == 0) break;
        node ^= byte;
        if (node >= trie.size() || label_of(trie[node]) != byte) return std::nullopt;
        const std::uint32_t unit = trie[node];
        node ^= offset_of(unit);
        if ((unit >> 8 & 1) == 0) continue;
        if (node >= trie.size()) return std::nullopt;
        const std::uint32_t value = trie[node] & ~(1u << 31);
        if (value > data_->replacements.size()) return std::nullopt;
        const auto rest = std::string_view(data_->replacements).substr(value);
        return rest.substr(0, rest.find('\0'));
    }
    return std::nullopt;
}

// Short grapheme clusters are looked up whole, then character by character: so do the models trained with it.
std::string PrecompiledCharsmap::normalize(std::string_view text) const {
    constexpr std::size_t short_cluster = 6;
    std::string out;
    out.reserve(text.size());
    for (std::size_t begin = 0; begin < text.size();) {
        std::size_t end = begin;
        utf8proc_int32_t state = 0;
        auto before = static_cast<utf8proc_int32_t>(next_code_point(text, end));
        while (end < text.size()) {
            std::size_t after = end;
            const auto next = static_cast<utf8proc_int32_t>(next_code_point(text, after));
            if (utf8proc_grapheme_break_stateful(before, next, &state)) break;
            before = next;
            end = after;
        }
        const std::string_view cluster = text.substr(begin, end - begin);
        begin = end;
        if (cluster.size() < short_cluster) {
            if (const auto found = replacement(cluster)) {
                out += *found;
                continue;
            }
        }
        for (std::size_t at = 0; at < cluster.size();) {
            const std::string_view character = cluster.substr(at, utf8_length(cluster[at]));
            out += replacement(character).value_or(character);
            at += character.size();
        }
    }
    return out;
}

}  // namespace mixwright::tokenizer
