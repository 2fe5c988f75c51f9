#include "tokenizer/oniguruma.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "error.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

// Inside [ ]. PCRE2's own \s has U+180E and its \w lacks marks.
constexpr std::string_view space_items =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view not_space_items =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view word_items = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view hex_items = "0-9a-fA-F";
constexpr std::string_view any_character = R"([\x{0}-\x{10ffff}])";

struct LongName {
    std::string_view name, category;
};
// Names of general categories that PCRE2 knows by their short form only.
constexpr std::array long_names{
    LongName{"letter", "L"}, LongName{"casedletter", "L&"}, LongName{"uppercaseletter", "Lu"},
    LongName{"lowercaseletter", "Ll"}, LongName{"titlecaseletter", "Lt"}, LongName{"modifierletter", "Lm"},
    LongName{"otherletter", "Lo"}, LongName{"mark", "M"}, LongName{"combiningmark", "M"},
    LongName{"nonspacingmark", "Mn"}, LongName{"spacingmark", "Mc"}, LongName{"enclosingmark", "Me"},
    LongName{"number", "N"}, LongName{"decimalnumber", "Nd"}, LongName{"letternumber", "Nl"},
    LongName{"othernumber", "No"}, LongName{"punctuation", "P"}, LongName{"punct", "P"},
    LongName{"connectorpunctuation", "Pc"}, LongName{"dashpunctuation", "Pd"}, LongName{"openpunctuation", "Ps"},
    LongName{"closepunctuation", "Pe"}, LongName{"initialpunctuation", "Pi"}, LongName{"finalpunctuation", "Pf"},
    LongName{"otherpunctuation", "Po"}, LongName{"symbol", "S"}, LongName{"mathsymbol", "Sm"},
    LongName{"currencysymbol", "Sc"}, LongName{"modifiersymbol", "Sk"}, LongName{"othersymbol", "So"},
    LongName{"separator", "Z"}, LongName{"spaceseparator", "Zs"}, LongName{"lineseparator", "Zl"},
    LongName{"paragraphseparator", "Zp"}, LongName{"other", "C"}, LongName{"control", "Cc"},
    LongName{"format", "Cf"}, LongName{"unassigned", "Cn"}, LongName{"privateuse", "Co"}, LongName{"surrogate", "Cs"},
    LongName{"digit", "Nd"}, LongName{"alpha", "Alphabetic"}, LongName{"upper", "Uppercase"},
    LongName{"lower", "Lowercase"}, LongName{"space", "White_Space"},
};

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Translator {
public:
    Translator(std::string_view pattern, std::string_view source) : pattern_(pattern), source_(source) {}

    std::string run() {
        while (!at_end()) step();
        if (!groups_.empty()) broken("a ( is not closed");
        return std::move(out_);
    }

private:
    [[noreturn]] void refuse(std::string_view what) const {
        throw Error(ErrorCode::unsupported, fmt::format("{}: the regular expression \"{}\" uses {}, which is not supported",
                                                        source_, printable(pattern_), what));
    }
    [[noreturn]] void broken(std::string_view what) const {
        throw Error(ErrorCode::malformed,
                    fmt::format("{}: the regular expression \"{}\" is broken: {}", source_, printable(pattern_), what));
    }

    bool at_end() const { return position_ >= pattern_.size(); }
    char peek(std::size_t ahead = 0) const {
        return position_ + ahead < pattern_.size() ? pattern_[position_ + ahead] : '\0';
    }
    bool follows(std::string_view text) const { return pattern_.substr(position_).starts_with(text); }
    char take() {
        if (at_end()) broken("it ends too early");
        return pattern_[position_++];
    }
    std::string_view take_character() {
        const std::size_t length = utf8_length(peek());
        const auto character = pattern_.substr(position_, length);
        position_ += character.size();
        return character;
    }

    void step() {
        const char c = peek();
        if (c == '*' || c == '+' || c == '?') return quantifier();
        if (c == '{') return interval();
        if (c == ')') return close_group();
        if (c == '|') {
            out_ += take();
            atom_ = out_.size();
            return;
        }
        if (c == '(') return open_group();
        atom_ = out_.size();
        if (c == '[') {
            ++position_;
            out_ += character_class();
        } else if (c == '\\') {
            ++position_;
            escape();
        } else {
            out_ += take_character();
        }
    }

    // * + ?, lazy or possessive: the same in both.
    void quantifier() {
        out_ += take();
        if (peek() == '?' || peek() == '+') out_ += take();
    }

    // {n} {n,} {n,m} {,m}; anything else is a literal brace.
    void interval() {
        std::size_t end = position_ + 1;
        std::string low, high;
        while (end < pattern_.size() && is_digit(pattern_[end])) low += pattern_[end++];
        const bool comma = end < pattern_.size() && pattern_[end] == ',';
        if (comma)
            for (++end; end < pattern_.size() && is_digit(pattern_[end]);) high += pattern_[end++];
        const bool valid = end < pattern_.size() && pattern_[end] == '}' && !(low.empty() && high.empty());
        if (!valid) {
            ++position_;
            atom_ = out_.size();
            out_ += "\\{";
            return;
        }
        position_ = end + 1;
        out_ += '{' + (low.empty() ? "0" : low) + (comma ? "," : "") + high + '}';
        // After an interval a + repeats it (PCRE2 would make it possessive), and so does a ? after {n}.
        if (peek() == '+' || (peek() == '?' && !comma)) {
            out_.insert(atom_, "(?:");
            out_ += ')';
        } else if (peek() == '?') {
            out_ += take();
        }
    }

    void open_group() {
        groups_.push_back(out_.size());
        out_ += take();
        if (peek() != '?') {
            if (peek() == '*') refuse("(*...)");
            atom_ = out_.size();
            return;
        }
        out_ += take();
        for (const std::string_view plain : {":", "=", "!", ">", "<=", "<!"})
            if (follows(plain)) {
                out_ += plain;
                position_ += plain.size();
                atom_ = out_.size();
                return;
            }
        if (peek() == '<') {
            while (peek() != '>') out_ += take();
            out_ += take();
            atom_ = out_.size();
            return;
        }
        if (peek() == '#') {
            while (take() != ')') {}
            out_.resize(groups_.back());
            groups_.pop_back();
            return;
        }
        while (peek() != ':' && peek() != ')') {
            const char flag = take();
            if (flag == 'm')
                out_ += 's';  // Ruby's name for "dot matches newline"
            else if (flag == 'i' || flag == 'x' || flag == '-')
                out_ += flag;
            else
                refuse(fmt::format("(?{}", printable(std::string_view(&flag, 1))));
        }
        if (peek() == ':') {
            out_ += take();
            atom_ = out_.size();
        }  // (?i) without a colon: its ) comes next
    }

    void close_group() {
        if (groups_.empty()) broken("a ) has no (");
        out_ += take();
        atom_ = groups_.back();
        groups_.pop_back();
    }

    // Outside of a class, after the backslash.
    void escape() {
        const auto bracketed = [&](std::string_view items) { out_ += fmt::format("[{}]", items); };
        switch (peek()) {
            case 's': ++position_; return bracketed(space_items);
            case 'S': ++position_; return bracketed(fmt::format("^{}", space_items));
            case 'w': ++position_; return bracketed(word_items);
            case 'W': ++position_; return bracketed(fmt::format("^{}", word_items));
            case 'h': ++position_; return bracketed(hex_items);
            case 'H': ++position_; return bracketed(fmt::format("^{}", hex_items));
            case 'b': ++position_; out_ += fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", word_items); return;
            case 'B': ++position_; out_ += fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", word_items); return;
            case 'g': case 'k': case 'y': case 'Y': case 'N': case 'O': case 'c': case 'C': case 'M': case 'Q':
                refuse(fmt::format("\\{}", peek()));
            default: out_ += literal_escape();
        }
    }

    // An escape that means the same inside and outside of a class; position after the backslash.
    std::string literal_escape() {
        const char c = peek();
        if (c == 'p' || c == 'P') return property();
        if (c == 'u') {
            ++position_;
            std::string digits;
            while (digits.size() < 4 && is_hex(peek())) digits += take();
            if (digits.size() != 4) broken("\\u needs four hexadecimal digits");
            return fmt::format("\\x{{{}}}", digits);
        }
        if (c == 'x' && peek(1) != '{') {
            ++position_;
            std::string digits;
            while (digits.size() < 2 && is_hex(peek())) digits += take();
            if (digits.empty()) broken("\\x needs hexadecimal digits");
            return fmt::format("\\x{{{}}}", digits);
        }
        return "\\" + std::string(at_end() ? std::string_view{} : take_character());
    }

    std::string property() {
        const char kind = take();
        if (peek() != '{') return fmt::format("\\{}{}", kind, take());
        ++position_;
        bool negated = kind == 'P';
        if (peek() == '^') {
            ++position_;
            negated = !negated;
        }
        std::string name, folded;
        for (char c = take(); c != '}'; c = take()) {
            name += c;
            if (c != '_' && c != ' ' && c != '-') folded += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
        }
        const auto known = std::find_if(long_names.begin(), long_names.end(), [&](const LongName& l) { return l.name == folded; });
        return fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', known == long_names.end() ? name : known->category);
    }

    // One side of && in a class: what stands between [ and ].
    struct Operand {
        std::string items;
        std::optional<std::string> nested_negated;  // "[^...]", allowed only as the whole operand
    };

    // Position after "[". Returns an expression that matches one character.
    std::string character_class() {
        if (++class_depth_ > 16) refuse("deeply nested classes");
        bool negated = false;
        const std::vector<Operand> operands = class_operands(negated);
        --class_depth_;
        std::vector<std::string> sets;
        for (const Operand& operand : operands) {
            if (operand.nested_negated && !operand.items.empty()) refuse("a negated class in the union of a class");
            sets.push_back(operand.nested_negated ? *operand.nested_negated : '[' + operand.items + ']');
        }
        if (sets.size() == 1) {
            if (!negated) return sets[0];
            if (operands[0].nested_negated) return '[' + operands[0].nested_negated->substr(2);
            return "[^" + operands[0].items + ']';
        }
        std::string all;
        for (std::size_t i = 1; i < sets.size(); ++i) all += "(?=" + sets[i] + ')';
        all += sets[0];
        return negated ? fmt::format("(?:(?!{}){})", all, any_character) : fmt::format("(?:{})", all);
    }

    std::vector<Operand> class_operands(bool& negated) {
        std::vector<Operand> operands(1);
        negated = peek() == '^';
        if (negated) ++position_;
        if (peek() == ']') operands.back().items += "\\" + std::string(1, take());
        while (peek() != ']' || at_end()) {
            Operand& operand = operands.back();
            if (follows("&&")) {
                position_ += 2;
                operands.emplace_back();
            } else if (follows("[:")) {
                const std::size_t end = pattern_.find(":]", position_);
                if (end == pattern_.npos) broken("a [: is not closed");
                operand.items += pattern_.substr(position_, end + 2 - position_);
                position_ = end + 2;
            } else if (peek() == '[') {
                ++position_;
                nested_class(operand);
            } else if (peek() == '\\') {
                ++position_;
                class_escape(operand.items);
            } else {
                if (at_end()) broken("a [ is not closed");
                operand.items += take_character();
            }
        }
        ++position_;
        return operands;
    }

    void nested_class(Operand& operand) {
        const std::string inner = character_class();
        if (inner.starts_with("[^")) {
            if (operand.nested_negated) refuse("two negated classes in a class");
            operand.nested_negated = inner;
        } else if (inner.starts_with("[")) {
            operand.items += inner.substr(1, inner.size() - 2);
        } else {
            refuse("an intersection inside a class");
        }
    }

    // After the backslash, inside a class.
    void class_escape(std::string& items) {
        std::string_view set;
        switch (peek()) {
            case 's': set = space_items; break;
            case 'S': set = not_space_items; break;
            case 'w': set = word_items; break;
            case 'h': set = hex_items; break;
            case 'W': case 'H': refuse(fmt::format("\\{} in a class", peek()));
            default: items += literal_escape(); return;
        }
        ++position_;
        items += set;
        if (peek() == '-') {  // a set cannot begin a range: the dash is a dash
            ++position_;
            items += "\\-";
        }
    }

    std::string_view pattern_, source_;
    std::size_t position_ = 0;
    std::string out_;
    std::size_t atom_ = 0;             // where in out_ the atom begins that a quantifier would apply to
    std::vector<std::size_t> groups_;  // where in out_ the open groups begin
    int class_depth_ = 0;
};

}  // namespace

std::string translate_oniguruma(std::string_view pattern, std::string_view source) {
    return Translator(pattern, source).run();
}

}  // namespace mixwright::tokenizer
