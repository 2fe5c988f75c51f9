// GPT-2's byte alphabet: every byte written as one printable character, so that byte strings can live in JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mixwright::tokenizer {

/// The character that stands for `byte`: itself where it is printable Latin-1, else U+0100 and up.
char32_t byte_to_character(unsigned char byte) noexcept;
/// The byte `character` stands for, if any.
std::optional<unsigned char> character_to_byte(char32_t character) noexcept;

/// `bytes` written in the byte alphabet.
std::string to_byte_alphabet(std::string_view bytes);
/// The bytes that `text` (valid UTF-8) stands for; nothing when a character is outside the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view text);

/// The byte of a fallback token "<0xNN>" (exactly that spelling, capital hexadecimal digits), if `token` is one.
std::optional<unsigned char> parse_byte_token(std::string_view token) noexcept;
/// "<0xNN>"
std::string byte_token(unsigned char byte);

}  // namespace mixwright::tokenizer
