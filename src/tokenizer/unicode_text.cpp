#include "tokenizer/unicode_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "checked.h"
#include "error.h"

namespace mixwright::tokenizer {
namespace {

utf8proc_category_t category(char32_t code) noexcept { return utf8proc_category(static_cast<utf8proc_int32_t>(code)); }

// Scans one character. Returns its length, or minus the length of the longest prefix of one (at least 1).
int scan_character(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    // The second byte rules out overlong forms, surrogates and code points above U+10FFFF.
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < length; ++i) {
        if (static_cast<std::size_t>(i) >= text.size()) return -i;
        const unsigned char next = byte(i);
        if (i == 1 ? next < low || next > high : (next & 0xC0) != 0x80) return -i;
    }
    return length;
}

}  // namespace

char32_t next_code_point(std::string_view text, std::size_t& position) noexcept {
    const auto byte = [&] { return static_cast<char32_t>(static_cast<unsigned char>(text[position++])); };
    const char32_t lead = byte();
    if (lead < 0x80) return lead;
    char32_t code = lead < 0xE0 ? lead & 0x1F : lead < 0xF0 ? lead & 0x0F : lead & 0x07;
    for (int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3; more > 0; --more) code = code << 6 | (byte() & 0x3F);
    return code;
}

void append_utf8(std::string& out, char32_t code) {
    const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
    } else {
        put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
    }
}

std::size_t valid_utf8_prefix(std::string_view text) noexcept {
    std::size_t position = 0;
    while (position < text.size()) {
        std::uint64_t word;
        if (text.size() - position >= sizeof word) {  // eight ASCII bytes at a time
            std::memcpy(&word, text.data() + position, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                position += sizeof word;
                continue;
            }
        }
        const int length = scan_character(text.substr(position));
        if (length < 0) break;
        position += static_cast<std::size_t>(length);
    }
    return position;
}

std::string replace_invalid_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (;;) {
        const std::size_t valid = valid_utf8_prefix(text);
        out += text.substr(0, valid);
        text.remove_prefix(valid);
        if (text.empty()) return out;
        out += "\xEF\xBF\xBD";
        text.remove_prefix(static_cast<std::size_t>(-scan_character(text)));
    }
}

std::size_t incomplete_utf8_suffix(std::string_view text) noexcept {
    for (std::size_t length = 1; length <= std::min<std::size_t>(3, text.size()); ++length) {
        const auto byte = static_cast<unsigned char>(text[text.size() - length]);
        if ((byte & 0xC0) == 0x80) continue;
        const int scanned = scan_character(text.substr(text.size() - length));
        return byte >= 0xC2 && scanned == -static_cast<int>(length) ? length : 0;
    }
    return 0;
}

bool is_whitespace(char32_t code) noexcept {
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
           code == 0x3000;
}

bool is_numeric(char32_t code) noexcept {
    if (code < 0x80) return code >= '0' && code <= '9';
    const auto kind = category(code);
    return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_NO;
}

bool is_mark(char32_t code) noexcept {
    const auto kind = category(code);
    return kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_MC || kind == UTF8PROC_CATEGORY_ME;
}

bool is_mark_nonspacing(char32_t code) noexcept { return category(code) == UTF8PROC_CATEGORY_MN; }

bool is_punctuation(char32_t code) noexcept {
    if (code < 0x80)
        return (code >= '!' && code <= '/') || (code >= ':' && code <= '@') || (code >= '[' && code <= '`') ||
               (code >= '{' && code <= '~');
    const auto kind = category(code);
    return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

bool is_control(char32_t code) noexcept {
    const auto kind = category(code);
    return kind >= UTF8PROC_CATEGORY_CC && kind <= UTF8PROC_CATEGORY_CO;
}

bool is_word(char32_t code) noexcept {
    if (code < 0x80) return (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') || code == '_' || (code >= 'a' && code <= 'z');
    switch (category(code)) {
        case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
        case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
        case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC: return true;
        // Other_Alphabetic among symbols: circled and squared Latin letters.
        case UTF8PROC_CATEGORY_SO:
            return (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
                   (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
        default: return code == 0x200C || code == 0x200D;  // Join_Control
    }
}

void append_lowercase(std::string& out, char32_t code) {
    if (code == 0x130)
        out += "i\xCC\x87";
    else
        append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
}

std::string normalize(std::string_view text, NormalForm form) {
    if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
        return std::string(text);
    int options = UTF8PROC_STABLE;
    options |= form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t* result = nullptr;
    const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                     checked_cast<utf8proc_ssize_t>(text.size(), "text"), &result,
                                     static_cast<utf8proc_option_t>(options));
    if (length == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
    if (length < 0)
        throw Error(ErrorCode::internal, std::string("Unicode normalization failed: ") + utf8proc_errmsg(length));
    std::string out(reinterpret_cast<const char*>(result), static_cast<std::size_t>(length));
    std::free(result);
    return out;
}

}  // namespace mixwright::tokenizer
