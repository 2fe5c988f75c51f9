#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

using io::Json;
using Step = std::function<void(Pieces&)>;

enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

Behavior behavior_from(const std::string& name, std::string_view where) {
    if (name == "Removed") return Behavior::removed;
    if (name == "Isolated") return Behavior::isolated;
    if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
    if (name == "MergedWithNext") return Behavior::merged_with_next;
    if (name == "Contiguous") return Behavior::contiguous;
    refuse_kind(where, name);
}

// Cuts [0, length) at `matches` (ordered, apart) and appends the pieces, shifted by `offset`; empty ones are left out.
void cut(const std::vector<Range>& matches, std::size_t length, std::size_t offset, Behavior behavior, bool invert,
         std::vector<Range>& out) {
    const std::size_t first = out.size();
    bool previous_match = false;  // of the segment before
    bool any = false;
    const auto segment = [&](std::size_t begin, std::size_t end, bool match) {
        match ^= invert;
        bool join = false;
        switch (behavior) {
            case Behavior::removed:
                if (match) begin = end;
                break;
            case Behavior::isolated: break;
            case Behavior::contiguous: join = any && match == previous_match; break;
            case Behavior::merged_with_previous: join = any && match && !previous_match; break;
            // Seen from the end this is merged_with_previous: of a run of matches, the last one joins what follows.
            case Behavior::merged_with_next: join = any && !match && previous_match; break;
        }
        previous_match = match;
        any = true;
        if (join && out.size() > first) out.back().end = offset + end;
        else out.push_back({offset + begin, offset + end});
    };
    std::size_t from = 0;
    for (const Range match : matches) {
        if (match.begin > from) segment(from, match.begin, false);
        segment(match.begin, match.end, true);
        from = match.end;
    }
    if (from < length) segment(from, length, false);
    out.erase(std::remove_if(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(), [](Range r) { return r.begin == r.end; }),
              out.end());
}

// `find(text, matches)` appends the matches in one piece.
template <class Find>
Step split_step(Find find, Behavior behavior, bool invert) {
    return [find = std::move(find), behavior, invert](Pieces& pieces) {
        pieces.next.clear();
        for (std::size_t i = 0; i < pieces.ranges.size(); ++i) {
            pieces.matches.clear();
            const std::string_view piece = pieces[i];
            find(piece, pieces.matches);
            cut(pieces.matches, piece.size(), pieces.ranges[i].begin, behavior, invert, pieces.next);
        }
        pieces.ranges.swap(pieces.next);
    };
}

Step split_step(Pattern pattern, Behavior behavior, bool invert) {
    return split_step([pattern = std::move(pattern)](std::string_view text, std::vector<Range>& out) { pattern.find_all(text, out); },
                      behavior, invert);
}

// Every character for which `matches` holds is a match of its own.
template <class Predicate>
Step split_characters(Predicate matches, Behavior behavior) {
    return split_step(
        [matches](std::string_view text, std::vector<Range>& out) {
            for (std::size_t position = 0; position < text.size();) {
                const std::size_t begin = position;
                if (matches(next_code_point(text, position))) out.push_back({begin, position});
            }
        },
        behavior, false);
}

// Runs of word characters and runs of other visible ones: \w+|[^\w\s]+
void find_words(std::string_view text, std::vector<Range>& out) {
    int before = 0;
    for (std::size_t position = 0; position < text.size();) {
        const std::size_t begin = position;
        const char32_t code = next_code_point(text, position);
        const int kind = is_word(code) ? 1 : is_whitespace(code) ? 0 : 2;
        if (kind != 0 && kind == before) out.back().end = position;
        else if (kind != 0) out.push_back({begin, position});
        before = kind;
    }
}

// Rewrites every piece: `rewrite(piece, first, out)` appends the new text.
template <class Rewrite>
void rewrite_pieces(Pieces& pieces, Rewrite rewrite) {
    std::string text;
    text.reserve(pieces.text.size() + pieces.text.size() / 8 + 8);
    pieces.next.clear();
    for (std::size_t i = 0; i < pieces.ranges.size(); ++i) {
        const std::size_t begin = text.size();
        rewrite(pieces[i], pieces.is_first(i), text);
        if (text.size() > begin) pieces.next.push_back({begin, text.size()});
    }
    pieces.at_start = !pieces.ranges.empty() && pieces.is_first(0);
    pieces.ranges.swap(pieces.next);
    pieces.storage = std::move(text);
    pieces.text = pieces.storage;
}

Step metaspace(const Json& json, const std::string& where, std::vector<Step>& steps) {
    const auto replacement = field_or<std::string>(json, "replacement", "\xE2\x96\x81", where);
    if (replacement.empty() || replacement.size() != utf8_length(replacement[0]))
        throw Error(ErrorCode::malformed, where + ".replacement: expected one character");
    const bool add_prefix = field_or(json, "add_prefix_space", true, where);  // the older spelling
    const auto scheme = field_or<std::string>(json, "prepend_scheme", add_prefix ? "always" : "never", where);
    if (scheme != "always" && scheme != "never" && scheme != "first") refuse_kind(where + ".prepend_scheme", scheme);
    const bool split = field_or(json, "split", true, where);
    const Step rewrite = [replacement, always = scheme == "always", first_only = scheme == "first"](Pieces& pieces) {
        rewrite_pieces(pieces, [&](std::string_view piece, bool first, std::string& out) {
            const bool marked = piece.starts_with(' ') || piece.starts_with(replacement);
            if (!marked && (always || (first_only && first))) out += replacement;
            for (const char c : piece) {
                if (c == ' ') out += replacement;
                else out += c;
            }
        });
    };
    if (!split) return rewrite;
    steps.push_back(rewrite);
    return split_step(Pattern::literal(replacement), Behavior::merged_with_next, false);
}

Step split(const Json& json, const std::string& where) {
    if (!json.contains("pattern")) throw Error(ErrorCode::malformed, where + ".pattern: missing");
    return split_step(Pattern::from_json(json["pattern"], where + ".pattern"),
                      behavior_from(text_field(json, "behavior", where), where + ".behavior"), field_or(json, "invert", false, where));
}

}  // namespace

void Pieces::reset(std::string_view whole, bool starts_input) {
    text = whole;
    at_start = starts_input;
    ranges.clear();
    if (!whole.empty()) ranges.push_back({0, whole.size()});
}

PreTokenizer PreTokenizer::from_json(const Json& json, const std::string& where, bool raw_bytes) {
    PreTokenizer result;
    if (!json.is_null()) result.add(json, where, raw_bytes, true);
    return result;
}

void PreTokenizer::add_byte_level(const Json& json, const std::string& where, bool raw_bytes) {
    if (field_or(json, "add_prefix_space", true, where))
        steps_.push_back([](Pieces& pieces) {
            rewrite_pieces(pieces, [](std::string_view piece, bool, std::string& out) {
                if (!piece.starts_with(' ')) out += ' ';
                out += piece;
            });
        });
    if (field_or(json, "use_regex", true, where))
        steps_.push_back(split_step(
            Pattern::regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", where),
            Behavior::isolated, false));
    ends_in_bytes_ = raw_bytes;
    if (!raw_bytes)
        steps_.push_back([](Pieces& pieces) {
            rewrite_pieces(pieces, [](std::string_view piece, bool, std::string& out) { out += to_byte_alphabet(piece); });
        });
}

void PreTokenizer::add(const Json& json, const std::string& where, bool raw_bytes, bool last) {
    const std::string& kind = kind_of(json, where);
    if (kind == "Sequence") {
        const Json& parts = array_field(json, "pretokenizers", where);
        for (std::size_t i = 0; i < parts.size(); ++i)
            add(parts[i], fmt::format("{}.pretokenizers[{}]", where, i), raw_bytes, last && i + 1 == parts.size());
    } else if (kind == "ByteLevel") {
        add_byte_level(json, where, raw_bytes && last);
    } else if (kind == "Split") {
        steps_.push_back(split(json, where));
    } else if (kind == "Digits") {
        steps_.push_back(split_characters(is_numeric, field_or(json, "individual_digits", false, where) ? Behavior::isolated
                                                                                                      : Behavior::contiguous));
    } else if (kind == "Metaspace") {
        steps_.push_back(metaspace(json, where, steps_));
    } else if (kind == "Whitespace") {
        steps_.push_back(split_step(find_words, Behavior::removed, true));
    } else if (kind == "WhitespaceSplit") {
        steps_.push_back(split_characters(is_whitespace, Behavior::removed));
    } else if (kind == "Punctuation") {
        steps_.push_back(split_characters(
            is_punctuation, behavior_from(field_or<std::string>(json, "behavior", "Isolated", where), where + ".behavior")));
    } else if (kind == "BertPreTokenizer") {
        steps_.push_back(split_characters(is_whitespace, Behavior::removed));
        steps_.push_back(split_characters(is_punctuation, Behavior::isolated));
    } else if (kind == "CharDelimiterSplit") {
        steps_.push_back(split_step(Pattern::literal(text_field(json, "delimiter", where)), Behavior::removed, false));
    } else {
        refuse_kind(where, kind);
    }
}

}  // namespace mixwright::tokenizer
