// UTF-8 and the character classes that tokenizers are defined by. It knows code points, not tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mixwright::tokenizer {

/// Length in bytes of the character whose first byte is `lead`; the text must be valid UTF-8.
constexpr std::size_t utf8_length(char lead) noexcept {
    const auto byte = static_cast<unsigned char>(lead);
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The code point at `position`, which moves past it. The text must be valid UTF-8.
char32_t next_code_point(std::string_view text, std::size_t& position) noexcept;
/// Appends `code` as UTF-8.
void append_utf8(std::string& out, char32_t code);

/// How many bytes at the start of `text` are valid UTF-8.
std::size_t valid_utf8_prefix(std::string_view text) noexcept;
/// `text` with every invalid piece replaced by U+FFFD, as Rust's from_utf8_lossy and Python's errors="replace" do.
std::string replace_invalid_utf8(std::string_view text);
/// How many bytes at the end of `text` begin a character that is cut off (0 to 3).
std::size_t incomplete_utf8_suffix(std::string_view text) noexcept;

bool is_whitespace(char32_t code) noexcept;   // White_Space
bool is_numeric(char32_t code) noexcept;      // Nd, Nl, No
bool is_mark(char32_t code) noexcept;         // Mn, Mc, Me
bool is_mark_nonspacing(char32_t code) noexcept;
bool is_punctuation(char32_t code) noexcept;  // ASCII punctuation or a P category
bool is_control(char32_t code) noexcept;      // a C category that is assigned (Cc, Cf, Cs, Co)
bool is_word(char32_t code) noexcept;         // \w: Alphabetic, M, Nd, Pc, Join_Control

/// Appends the lower case of `code` (more than one code point for U+0130).
void append_lowercase(std::string& out, char32_t code);

enum class NormalForm { nfc, nfd, nfkc, nfkd };
std::string normalize(std::string_view text, NormalForm form);

}  // namespace mixwright::tokenizer
