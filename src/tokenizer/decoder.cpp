#include "tokenizer/decoder.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

using io::Json;
using Tokens = std::vector<std::string>;

void byte_level(Tokens& tokens) {
    std::string text;
    for (const std::string& token : tokens) text += from_byte_alphabet(token).value_or(token);
    tokens.assign(1, std::move(text));
}

void fuse(Tokens& tokens) {
    std::string text;
    for (const std::string& token : tokens) text += token;
    tokens.assign(1, std::move(text));
}

// Runs of "<0xNN>" become the text their bytes spell, or a replacement character for each byte.
void byte_fallback(Tokens& tokens) {
    Tokens out;
    std::string run;
    const auto flush = [&] {
        if (run.empty()) return;
        if (valid_utf8_prefix(run) == run.size())
            out.push_back(run);
        else
            out.insert(out.end(), run.size(), "\xEF\xBF\xBD");
        run.clear();
    };
    for (std::string& token : tokens) {
        if (const auto byte = parse_byte_token(token)) {
            run.push_back(static_cast<char>(*byte));
        } else {
            flush();
            out.push_back(std::move(token));
        }
    }
    flush();
    tokens = std::move(out);
}

Decoder metaspace(const Json& json, const std::string& where) {
    const auto replacement = field_or<std::string>(json, "replacement", "\xE2\x96\x81", where);
    const bool add_prefix = field_or(json, "add_prefix_space", true, where);
    const bool drop_first = field_or<std::string>(json, "prepend_scheme", add_prefix ? "always" : "never", where) != "never";
    if (replacement.empty()) throw Error(ErrorCode::malformed, where + ".replacement: expected one character");
    return [=](Tokens& tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            std::string out;
            const std::string_view token = tokens[i];
            for (std::size_t at = 0; at < token.size();) {
                if (!token.substr(at).starts_with(replacement)) {
                    out += token[at++];
                    continue;
                }
                at += replacement.size();
                if (!(i == 0 && drop_first)) out += ' ';
            }
            tokens[i] = std::move(out);
        }
    };
}

Decoder replace(const Json& json, const std::string& where) {
    if (!json.contains("pattern")) throw Error(ErrorCode::malformed, where + ".pattern: missing");
    return [pattern = Pattern::from_json(json["pattern"], where + ".pattern"), content = text_field(json, "content", where)](Tokens& tokens) {
        std::vector<Range> matches;
        for (std::string& token : tokens) {
            if (valid_utf8_prefix(token) != token.size()) continue;
            matches.clear();
            pattern.find_all(token, matches);
            for (auto match = matches.rbegin(); match != matches.rend(); ++match)
                token.replace(match->begin, match->end - match->begin, content);
        }
    };
}

// Up to `start` and `stop` characters off the ends of each token.
Decoder strip(const Json& json, const std::string& where) {
    const std::string content = text_field(json, "content", where);
    if (content.empty() || content.size() != utf8_length(content[0]))
        throw Error(ErrorCode::malformed, where + ".content: expected one character");
    const auto start = field_or<std::uint64_t>(json, "start", 0, where), stop = field_or<std::uint64_t>(json, "stop", 0, where);
    return [=](Tokens& tokens) {
        for (std::string& token : tokens) {
            std::string_view rest = token;
            for (std::uint64_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
            for (std::uint64_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
            token = std::string(rest);
        }
    };
}

void clean_up_spaces(std::string& text) {
    static constexpr std::pair<std::string_view, std::string_view> rules[] = {
        {" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [from, to] : rules)
        for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

Decoder word_piece(const Json& json, const std::string& where) {
    const auto prefix = field_or<std::string>(json, "prefix", "##", where);
    const bool cleanup = field_or(json, "cleanup", true, where);
    return [=](Tokens& tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            if (i > 0 && tokens[i].starts_with(prefix)) tokens[i].erase(0, prefix.size());
            else if (i > 0) tokens[i].insert(0, " ");
            if (cleanup) clean_up_spaces(tokens[i]);
        }
    };
}

Decoder bpe_suffix(const Json& json, const std::string& where) {
    const auto suffix = field_or<std::string>(json, "suffix", "</w>", where);
    const auto matching = Pattern::literal(suffix);
    return [=](Tokens& tokens) {
        std::vector<Range> matches;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            matches.clear();
            matching.find_all(tokens[i], matches);
            for (auto match = matches.rbegin(); match != matches.rend(); ++match)
                tokens[i].replace(match->begin, match->end - match->begin, i + 1 == tokens.size() ? "" : " ");
        }
    };
}

Decoder sequence(const Json& json, const std::string& where) {
    std::vector<Decoder> steps;
    for (const Json& step : array_field(json, "decoders", where))
        if (Decoder made = make_decoder(step, fmt::format("{}.decoders[{}]", where, steps.size()))) steps.push_back(std::move(made));
    return [steps = std::move(steps)](Tokens& tokens) {
        for (const Decoder& step : steps) step(tokens);
    };
}

}  // namespace

Decoder make_decoder(const Json& json, const std::string& where) {
    if (json.is_null()) return {};
    const std::string& kind = kind_of(json, where);
    if (kind == "Sequence") return sequence(json, where);
    if (kind == "ByteLevel") return byte_level;
    if (kind == "ByteFallback") return byte_fallback;
    if (kind == "Fuse") return fuse;
    if (kind == "Metaspace") return metaspace(json, where);
    if (kind == "Replace") return replace(json, where);
    if (kind == "Strip") return strip(json, where);
    if (kind == "WordPiece") return word_piece(json, where);
    if (kind == "BPEDecoder") return bpe_suffix(json, where);
    refuse_kind(where, kind);
}

}  // namespace mixwright::tokenizer
