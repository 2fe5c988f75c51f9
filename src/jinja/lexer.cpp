#include "jinja/lexer.h"

#include <algorithm>
#include <charconv>

#include "jinja/unicode.h"

namespace mixwright::jinja {

namespace {

bool is_name_start(char32_t c) { return c == '_' || is_alpha(c); }
bool is_name_part(char32_t c) { return is_name_start(c) || is_digit(c); }
bool is_decimal(char c) { return c >= '0' && c <= '9'; }

/// End of digits with single underscores between them, from `at`.
std::size_t digits_end(std::string_view text, std::size_t at, bool (*is_digit)(char)) {
    std::size_t end = at;
    while (end < text.size() && (is_digit(text[end]) || (text[end] == '_' && end > at && text[end - 1] != '_'))) ++end;
    return end > at && text[end - 1] == '_' ? end - 1 : end;
}

/// The value of a string literal's inside: Python's escapes.
String unescape(std::string_view text, bool& valid) {
    String out;
    const auto number = [&](std::size_t at, std::size_t count, int base, char32_t& value) {
        unsigned parsed = 0;
        const auto result = std::from_chars(text.data() + at, text.data() + std::min(at + count, text.size()), parsed, base);
        value = parsed;
        return static_cast<std::size_t>(result.ptr - text.data()) - at;
    };
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\\' || i + 1 == text.size()) {
            out += text[i];
            continue;
        }
        const char c = text[++i];
        constexpr std::string_view kNames = "ntrabfv\\'\"", kValues = "\n\t\r\a\b\f\v\\'\"";
        if (const std::size_t known = kNames.find(c); known != std::string_view::npos) {
            out += kValues[known];
        } else if (c == '\n') {
            continue;
        } else if (c >= '0' && c <= '7') {
            char32_t value;
            i += number(i, 3, 8, value) - 1;
            append_code_point(out, value);
        } else if (c == 'x' || c == 'u' || c == 'U') {
            const std::size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
            char32_t value = 0;
            valid = valid && number(i + 1, count, 16, value) == count && value < 0x110000 &&
                    (value < 0xD800 || value > 0xDFFF);
            if (!valid) return out;
            append_code_point(out, value);
            i += count;
        } else {
            (out += '\\') += c;
        }
    }
    return out;
}

}  // namespace

Lexer::Lexer(std::string_view source) {
    source_.reserve(source.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
        if (source[i] == '\r') {
            source_ += '\n';
            if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
        } else {
            source_ += source[i];
        }
    }
    if (source_.ends_with('\n')) source_.pop_back();
}

void Lexer::fail(const std::string& message) const { throw Failure(message, Failure::Reason::syntax, line_); }

bool Lexer::at(std::string_view what, std::size_t offset) const {
    return std::string_view(source_).substr(std::min(position_ + offset, source_.size())).starts_with(what);
}

void Lexer::advance(std::size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    if (to > position_) line_starting_ = source_[to - 1] == '\n';
    position_ = to;
}

void Lexer::skip_space() {
    const std::string_view rest = std::string_view(source_).substr(position_);
    std::size_t length = 0;
    while (length < rest.size()) {
        std::size_t next = length;
        if (!is_space(next_code_point(rest, next))) break;
        length = next;
    }
    advance(position_ + length);
}

Token Lexer::data(std::string_view text) const {
    Token token;
    token.kind = Token::Kind::data;
    token.text = text;
    token.line = line_;
    return token;
}

Token Lexer::next() {
    while (true) {
        Token token;
        token.line = line_;
        if (opening_) {
            opening_ = false;
            token.kind = state_ == State::block ? Token::Kind::block_begin : Token::Kind::variable_begin;
            return token;
        }
        if (position_ >= source_.size()) return token;
        token = state_ == State::text ? next_text() : next_in_tag();
        if (token.kind != Token::Kind::data || !token.text.empty()) return token;
    }
}

/// Length of "{%- raw -%}" (with `word` "raw") at `at`, or 0.
std::size_t Lexer::match_raw(std::size_t at, std::string_view word, bool& strip_after) const {
    const std::string_view text = source_;
    std::size_t i = at;
    const auto skip = [&] {
        while (i < text.size()) {
            std::size_t next = i;
            if (!is_space(next_code_point(text, next))) break;
            i = next;
        }
    };
    if (!text.substr(i).starts_with("{%")) return 0;
    i += 2;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    skip();
    if (!text.substr(i).starts_with(word)) return 0;
    i += word.size();
    skip();
    strip_after = text.substr(i).starts_with("-%}");
    const bool plus = word == "endraw" && text.substr(i).starts_with("+%}");
    if (strip_after || plus) ++i;
    if (!text.substr(i).starts_with("%}")) return 0;
    i += 2;
    if (word == "endraw" && !strip_after && !plus && i < text.size() && text[i] == '\n') ++i;
    return i - at;
}

Token Lexer::next_text() {
    const std::string_view source = source_;
    std::size_t tag = position_;
    while (true) {
        tag = source.find('{', tag);
        if (tag == std::string_view::npos || tag + 1 >= source.size()) {
            Token token = data(source.substr(position_));
            advance(source.size());
            return token;
        }
        const char c = source[tag + 1];
        if (c == '%' || c == '{' || c == '#') break;
        ++tag;
    }
    const char kind = source[tag + 1];
    const char sign = tag + 2 < source.size() ? source[tag + 2] : ' ';
    const auto before = [&](std::string_view text) {
        if (sign == '-') return strip(text, Sides::right);
        const std::size_t line_start = text.rfind('\n') + 1;
        if (sign != '+' && kind != '{' && (line_start > 0 || line_starting_) &&
            strip(text.substr(line_start)).empty())
            return text.substr(0, line_start);
        return text;
    };
    bool strip_after = false;
    if (const std::size_t length = match_raw(tag, "raw", strip_after)) {
        Token token = data(before(source.substr(position_, tag - position_)));
        advance(tag + length);
        if (strip_after) skip_space();
        std::size_t end = position_, end_length = 0;
        while (!(end_length = match_raw(end, "endraw", strip_after))) {
            end = source.find("{%", end + 1);
            charge_work(64);
            if (end == std::string_view::npos) fail("Missing end of raw directive");
        }
        std::string_view raw = source.substr(position_, end - position_);
        if (source[end + 2] == '-') {
            raw = strip(raw, Sides::right);
        } else if (source[end + 2] != '+') {
            const std::size_t line_start = raw.rfind('\n') + 1;
            if ((line_start > 0 || line_starting_) && strip(raw.substr(line_start)).empty()) raw = raw.substr(0, line_start);
        }
        token.text += raw;
        advance(end + end_length);
        if (strip_after) skip_space();
        return token;
    }
    Token token = data(before(source.substr(position_, tag - position_)));
    advance(tag + 2);
    if (sign == '-' || sign == '+') ++position_;
    line_starting_ = false;
    if (kind == '#') {
        skip_comment();
        return token;
    }
    state_ = kind == '%' ? State::block : State::variable;
    opening_ = true;
    return token;
}

void Lexer::skip_comment() {
    const std::size_t end = std::string_view(source_).find("#}", position_);
    if (end == std::string_view::npos) fail("Missing end of comment tag");
    const char sign = end > position_ ? source_[end - 1] : ' ';
    advance(end + 2);
    if (sign == '-') skip_space();
    else if (sign != '+' && at("\n")) advance(position_ + 1);
}

bool Lexer::accept_tag_end() {
    if (!brackets_.empty()) return false;
    if (state_ == State::block) {
        const bool minus = at("-%}"), plus = at("+%}");
        if (!minus && !plus && !at("%}")) return false;
        advance(position_ + (minus || plus ? 3 : 2));
        if (minus) skip_space();
        else if (!plus && at("\n")) advance(position_ + 1);
    } else {
        const bool minus = at("-}}");
        if (!minus && !at("}}")) return false;
        advance(position_ + (minus ? 3 : 2));
        if (minus) skip_space();
    }
    return true;
}

Token Lexer::next_in_tag() {
    while (true) {
        Token token;
        token.line = line_;
        const State tag = state_;
        if (accept_tag_end()) {
            state_ = State::text;
            token.kind = tag == State::block ? Token::Kind::block_end : Token::Kind::variable_end;
            return token;
        }
        if (position_ >= source_.size()) return token;
        const std::size_t start = position_;
        skip_space();
        if (position_ == start) break;
    }
    std::size_t ahead = position_;
    const char32_t c = next_code_point(source_, ahead);
    if (c < 0x80 && is_decimal(static_cast<char>(c))) return number_token();
    if (is_name_start(c)) return name_token();
    if (c == '"' || c == '\'') return string_token();
    return symbol_token();
}

Token Lexer::name_token() {
    std::size_t end = position_;
    while (end < source_.size()) {
        std::size_t next = end;
        if (!is_name_part(next_code_point(source_, next))) break;
        end = next;
    }
    Token token;
    token.kind = Token::Kind::name;
    token.line = line_;
    token.text = std::string_view(source_).substr(position_, end - position_);
    advance(end);
    return token;
}

Token Lexer::number_token() {
    const std::string_view text = source_;
    const std::size_t start = position_;
    const auto plain = [](std::string_view digits) {
        std::string out(digits);
        std::erase(out, '_');
        return out;
    };
    Token token;
    token.line = line_;
    // A float, unless the number follows a dot (a.1.2).
    const std::size_t whole = digits_end(text, start, is_decimal);
    std::size_t end = whole;
    if (start == 0 || text[start - 1] != '.') {
        if (end + 1 < text.size() && text[end] == '.' && is_decimal(text[end + 1]))
            end = digits_end(text, end + 1, is_decimal);
        if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
            std::size_t exponent = end + 1;
            if (exponent < text.size() && (text[exponent] == '+' || text[exponent] == '-')) ++exponent;
            if (exponent < text.size() && is_decimal(text[exponent])) end = digits_end(text, exponent, is_decimal);
        }
    }
    if (end > whole) {
        token.kind = Token::Kind::real;
        const std::string digits = plain(text.substr(start, end - start));
        if (std::from_chars(digits.data(), digits.data() + digits.size(), token.real).ec != std::errc())
            fail("the number " + digits.substr(0, 40) + " is out of range");
    } else {
        token.kind = Token::Kind::integer;
        int base = 10;
        std::size_t digits_start = start;
        if (text[start] == '0' && start + 2 < text.size()) {
            const char mark = text[start + 1] | 0x20;
            const auto is_hex = [](char c) { return is_decimal(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f'); };
            const auto is_octal = [](char c) { return c >= '0' && c <= '7'; };
            const auto is_binary = [](char c) { return c == '0' || c == '1'; };
            const int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
            const std::size_t marked_end = marked == 16  ? digits_end(text, start + 2, is_hex)
                                           : marked == 8 ? digits_end(text, start + 2, is_octal)
                                           : marked == 2 ? digits_end(text, start + 2, is_binary)
                                                         : 0;
            if (marked && marked_end > start + 2) {
                base = marked;
                digits_start = start + 2;
                end = marked_end;
            }
        }
        const std::string digits = plain(text.substr(digits_start, end - digits_start));
        if (std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base).ec != std::errc())
            fail("the number " + digits.substr(0, 40) + " is too large");
    }
    advance(end);
    return token;
}

Token Lexer::string_token() {
    const char quote = source_[position_];
    std::size_t end = position_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail("a string literal does not end");
    Token token;
    token.kind = Token::Kind::text;
    token.line = line_;
    bool valid = true;
    token.text = unescape(std::string_view(source_).substr(position_ + 1, end - position_ - 1), valid);
    if (!valid) fail("a string literal holds a broken escape");
    advance(end + 1);
    return token;
}

Token Lexer::symbol_token() {
    constexpr std::string_view kSymbols[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                             "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (const std::string_view symbol : kSymbols) {
        if (!at(symbol)) continue;
        const char c = symbol[0];
        if (c == '{' || c == '(' || c == '[') {
            brackets_ += c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == '}' || c == ')' || c == ']') {
            if (brackets_.empty() || brackets_.back() != c) fail("unexpected '" + std::string(symbol) + "'");
            brackets_.pop_back();
        }
        Token token;
        token.kind = Token::Kind::symbol;
        token.line = line_;
        token.text = symbol;
        advance(position_ + symbol.size());
        return token;
    }
    fail("unexpected character");
}

}  // namespace mixwright::jinja
