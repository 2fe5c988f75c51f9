#include "tokenizer/normalizer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/precompiled_charsmap.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

using io::Json;

// A normalizer that rewrites each code point on its own.
template <class Rewrite>
Normalizer for_each_character(Rewrite rewrite) {
    return [rewrite](std::string_view text) {
        std::string out;
        out.reserve(text.size());
        for (std::size_t position = 0; position < text.size();) rewrite(out, next_code_point(text, position));
        return out;
    };
}

Normalizer unicode_form(NormalForm form) {
    return [form](std::string_view text) { return normalize(text, form); };
}

Normalizer prepend(const Json& json, const std::string& where) {
    return [prefix = text_field(json, "prepend", where)](std::string_view text) {
        return text.empty() ? std::string() : prefix + std::string(text);
    };
}

Normalizer replace(const Json& json, const std::string& where) {
    if (!json.contains("pattern")) throw Error(ErrorCode::malformed, where + ".pattern: missing");
    return [pattern = Pattern::from_json(json["pattern"], where + ".pattern"),
            content = text_field(json, "content", where)](std::string_view text) {
        std::vector<Range> matches;
        pattern.find_all(text, matches);
        std::string out;
        out.reserve(text.size() + matches.size() * content.size());
        std::size_t from = 0;
        for (const Range match : matches) {
            out += text.substr(from, match.begin - from);
            out += content;
            from = match.end;
        }
        return out += text.substr(from);
    };
}

Normalizer strip(const Json& json, const std::string& where) {
    const bool left = field_or(json, "strip_left", true, where), right = field_or(json, "strip_right", true, where);
    return [left, right](std::string_view text) {
        std::size_t begin = text.size(), end = 0;  // of what is left when white space goes on both sides
        for (std::size_t position = 0; position < text.size();) {
            const std::size_t at = position;
            if (is_whitespace(next_code_point(text, position))) continue;
            begin = std::min(begin, at);
            end = position;
        }
        if (begin == text.size()) return left || right ? std::string() : std::string(text);
        if (!left) begin = 0;
        if (!right) end = text.size();
        return std::string(text.substr(begin, end - begin));
    };
}

// SentencePiece's nmt rules: some controls vanish, odd spaces become spaces.
void nmt_character(std::string& out, char32_t c) {
    if ((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) return;
    const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                       c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
    append_utf8(out, space ? U' ' : c);
}

bool is_chinese(char32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

Normalizer bert(const Json& json, const std::string& where) {
    const bool clean = field_or(json, "clean_text", true, where), chinese = field_or(json, "handle_chinese_chars", true, where);
    const bool lowercase = field_or(json, "lowercase", true, where);
    const bool accents = field_or(json, "strip_accents", lowercase, where);
    const auto first = for_each_character([=](std::string& out, char32_t c) {
        if (clean) {
            const bool blank = c == '\t' || c == '\n' || c == '\r';
            if (c == 0 || c == 0xFFFD || (!blank && is_control(c))) return;
            if (is_whitespace(c)) c = ' ';
        }
        const bool apart = chinese && is_chinese(c);
        if (apart) out += ' ';
        append_utf8(out, c);
        if (apart) out += ' ';
    });
    const auto without_accents = for_each_character([](std::string& out, char32_t c) {
        if (!is_mark_nonspacing(c)) append_utf8(out, c);
    });
    const auto lowered = for_each_character(append_lowercase);
    return [=](std::string_view text) {
        std::string out = first(text);
        if (accents) out = without_accents(normalize(out, NormalForm::nfd));
        return lowercase ? lowered(out) : out;
    };
}

Normalizer sequence(const Json& json, const std::string& where) {
    std::vector<Normalizer> steps;
    for (const Json& step : array_field(json, "normalizers", where)) {
        Normalizer made = make_normalizer(step, fmt::format("{}.normalizers[{}]", where, steps.size()));
        if (made) steps.push_back(std::move(made));
    }
    if (steps.empty()) return {};
    return [steps = std::move(steps)](std::string_view text) {
        std::string out = steps.front()(text);
        for (std::size_t i = 1; i < steps.size(); ++i) out = steps[i](out);
        return out;
    };
}

}  // namespace

Normalizer make_normalizer(const Json& json, const std::string& where) {
    if (json.is_null()) return {};
    const std::string& kind = kind_of(json, where);
    if (kind == "Sequence") return sequence(json, where);
    if (kind == "NFC") return unicode_form(NormalForm::nfc);
    if (kind == "NFD") return unicode_form(NormalForm::nfd);
    if (kind == "NFKC") return unicode_form(NormalForm::nfkc);
    if (kind == "NFKD") return unicode_form(NormalForm::nfkd);
    if (kind == "Lowercase") return for_each_character(append_lowercase);
    if (kind == "Prepend") return prepend(json, where);
    if (kind == "Replace") return replace(json, where);
    if (kind == "Strip") return strip(json, where);
    if (kind == "StripAccents")
        return for_each_character([](std::string& out, char32_t c) {
            if (!is_mark(c)) append_utf8(out, c);
        });
    if (kind == "Nmt") return for_each_character(nmt_character);
    if (kind == "BertNormalizer") return bert(json, where);
    if (kind == "ByteLevel") return [](std::string_view text) { return to_byte_alphabet(text); };
    if (kind == "Precompiled") {
        return [map = PrecompiledCharsmap::from_base64(text_field(json, "precompiled_charsmap", where), where)](
                   std::string_view text) { return map.normalize(text); };
    }
    refuse_kind(where, kind);
}

}  // namespace mixwright::tokenizer
