#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

constexpr int alphabet_end = 0x144;  // one past the largest character of the alphabet

struct Alphabet {
    std::array<std::uint16_t, 256> character{};
    std::array<std::int16_t, alphabet_end> byte{};
};

constexpr Alphabet alphabet = [] {
    Alphabet result;
    result.byte.fill(-1);
    std::uint16_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
        const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        const std::uint16_t character = printable ? static_cast<std::uint16_t>(b) : next++;
        result.character[static_cast<std::size_t>(b)] = character;
        result.byte[character] = static_cast<std::int16_t>(b);
    }
    return result;
}();

constexpr std::string_view hex = "0123456789ABCDEF";

}  // namespace

char32_t byte_to_character(unsigned char byte) noexcept { return alphabet.character[byte]; }

std::optional<unsigned char> character_to_byte(char32_t character) noexcept {
    if (character >= alphabet_end || alphabet.byte[character] < 0) return std::nullopt;
    return static_cast<unsigned char>(alphabet.byte[character]);
}

std::string to_byte_alphabet(std::string_view bytes) {
    std::string out;
    out.reserve(bytes.size() * 2);
    for (const char byte : bytes) append_utf8(out, byte_to_character(static_cast<unsigned char>(byte)));
    return out;
}

std::optional<std::string> from_byte_alphabet(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t position = 0; position < text.size();) {
        const auto byte = character_to_byte(next_code_point(text, position));
        if (!byte) return std::nullopt;
        out.push_back(static_cast<char>(*byte));
    }
    return out;
}

std::optional<unsigned char> parse_byte_token(std::string_view token) noexcept {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    const auto high = hex.find(token[3]), low = hex.find(token[4]);
    if (high == hex.npos || low == hex.npos) return std::nullopt;
    return static_cast<unsigned char>(high << 4 | low);
}

std::string byte_token(unsigned char byte) {
    std::string token = "<0x00>";
    token[3] = hex[byte >> 4];
    token[4] = hex[byte & 15];
    return token;
}

}  // namespace mixwright::tokenizer
