#include "jinja/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

namespace mixwright::jinja {

namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

}  // namespace

char32_t next_code_point(std::string_view text, std::size_t& offset) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(offset++);
    if (lead < 0x80) return lead;
    const int extra = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    char32_t c = extra == 0 ? lead : lead & (0x3Fu >> extra);
    for (int i = 0; i < extra && offset < text.size() && is_continuation(text[offset]); ++i)
        c = c << 6 | (byte(offset++) & 0x3Fu);
    return c;
}

char32_t previous_code_point(std::string_view text, std::size_t& offset) {
    std::size_t start = offset - 1;
    while (start > 0 && offset - start < 4 && is_continuation(text[start])) --start;
    std::size_t end = start;
    const char32_t c = next_code_point(text, end);
    if (end != offset) {  // stray continuation bytes
        start = offset - 1;
        offset = start;
        return static_cast<unsigned char>(text[start]);
    }
    offset = start;
    return c;
}

void append_code_point(String& out, char32_t c) {
    if (c < 0x80) {
        out += static_cast<char>(c);
    } else if (c < 0x800) {
        out += static_cast<char>(0xC0 | c >> 6);
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        out += static_cast<char>(0xE0 | c >> 12);
        out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | (c >> 18 & 0x07));
        out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
        out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    }
}

std::size_t count_code_points(std::string_view text) {
    // Counted as next_code_point walks: valid UTF-8 has one code point per byte that is no continuation.
    std::size_t count = 0;
    for (const char c : text) count += !is_continuation(c);
    return count;
}

bool is_valid_utf8(std::string_view text) {
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
    for (std::size_t offset = 0; offset < text.size();) {
        utf8proc_int32_t c;
        const auto read = utf8proc_iterate(bytes + offset, static_cast<utf8proc_ssize_t>(text.size() - offset), &c);
        if (read <= 0) return false;
        offset += static_cast<std::size_t>(read);
    }
    return true;
}

bool is_space(char32_t c) {
    if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F) || c == ' ';
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
    if (c == ' ') return true;
    switch (category(c)) {
        case UTF8PROC_CATEGORY_CC:
        case UTF8PROC_CATEGORY_CF:
        case UTF8PROC_CATEGORY_CS:
        case UTF8PROC_CATEGORY_CO:
        case UTF8PROC_CATEGORY_CN:
        case UTF8PROC_CATEGORY_ZL:
        case UTF8PROC_CATEGORY_ZP:
        case UTF8PROC_CATEGORY_ZS: return false;
        default: return true;
    }
}

bool is_alpha(char32_t c) {
    const auto k = category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
bool is_digit(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_upper(char32_t c) { return utf8proc_isupper(static_cast<utf8proc_int32_t>(c)); }
bool is_lower(char32_t c) { return utf8proc_islower(static_cast<utf8proc_int32_t>(c)); }
char32_t to_upper(char32_t c) { return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))); }
char32_t to_lower(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }

std::string_view strip(std::string_view text, Sides sides) {
    charge_work(text.size());
    if (static_cast<int>(sides) & static_cast<int>(Sides::left)) {
        std::size_t offset = 0;
        while (offset < text.size()) {
            std::size_t next = offset;
            if (!is_space(next_code_point(text, next))) break;
            offset = next;
        }
        text.remove_prefix(offset);
    }
    if (static_cast<int>(sides) & static_cast<int>(Sides::right)) {
        std::size_t end = text.size();
        while (end > 0) {
            std::size_t start = end;
            if (!is_space(previous_code_point(text, start))) break;
            end = start;
        }
        text = text.substr(0, end);
    }
    return text;
}

namespace {

/// Whether `wanted` stands at `at`; charges the bytes compared.
bool stands_at(std::string_view text, std::string_view wanted, std::size_t at, std::size_t& work) {
    const auto [end, unused] = std::mismatch(wanted.begin(), wanted.end(), text.begin() + static_cast<std::ptrdiff_t>(at));
    work += 16 + static_cast<std::size_t>(end - wanted.begin());
    if (work > (1u << 16)) charge_work(std::exchange(work, 0));
    return end == wanted.end();
}

}  // namespace

std::size_t find_text(std::string_view text, std::string_view wanted, std::size_t from) {
    if (wanted.size() > text.size() || from > text.size() - wanted.size()) return std::string_view::npos;
    if (wanted.empty()) return from;
    const std::size_t last = text.size() - wanted.size();
    std::size_t work = 0, at = from, found = std::string_view::npos;
    while (at <= last && (at = text.find(wanted[0], at)) <= last) {
        if (stands_at(text, wanted, at, work)) {
            found = at;
            break;
        }
        ++at;
    }
    charge_work(work + std::min(at, text.size()) - from);
    return found;
}

std::size_t find_last_text(std::string_view text, std::string_view wanted) {
    if (wanted.size() > text.size()) return std::string_view::npos;
    std::size_t work = 0;
    for (std::size_t at = text.size() - wanted.size() + 1; at-- > 0;)
        if (stands_at(text, wanted, at, work)) {
            charge_work(work);
            return at;
        }
    charge_work(work);
    return std::string_view::npos;
}

}  // namespace mixwright::jinja
