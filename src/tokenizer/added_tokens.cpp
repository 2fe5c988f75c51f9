#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/json_fields.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

// The code point that ends at `end`.
char32_t code_point_before(std::string_view text, std::size_t end) {
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    return next_code_point(text, begin);
}

bool inside_word(std::string_view text, Range range) {
    if (range.begin > 0 && is_word(code_point_before(text, range.begin))) return true;
    std::size_t end = range.end;
    return end < text.size() && is_word(next_code_point(text, end));
}

std::size_t without_space_before(std::string_view text, std::size_t begin, std::size_t limit) {
    while (begin > limit && is_whitespace(code_point_before(text, begin))) {
        do --begin;
        while ((static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80);
    }
    return begin;
}

std::size_t without_space_behind(std::string_view text, std::size_t end) {
    for (std::size_t next = end; next < text.size(); end = next)
        if (!is_whitespace(next_code_point(text, next))) break;
    return end;
}

}  // namespace

AddedToken added_token_from_json(const io::Json& json, const std::string& where) {
    if (!json.is_object()) throw Error(ErrorCode::malformed, where + ": expected an object");
    AddedToken token;
    token.content = text_field(json, "content", where);
    if (const auto id = json.find("id"); id != json.end()) token.id = id_from_json(*id, where + ".id");
    token.single_word = field_or(json, "single_word", false, where);
    token.lstrip = field_or(json, "lstrip", false, where);
    token.rstrip = field_or(json, "rstrip", false, where);
    token.special = field_or(json, "special", false, where);
    token.normalized = field_or(json, "normalized", !token.special, where);
    return token;
}

std::uint32_t StringFinder::child(std::uint32_t node, unsigned char byte) const noexcept {
    std::uint32_t next = nodes_[node].first_child;
    while (next != none && nodes_[next].byte != byte) next = nodes_[next].sibling;
    return next;
}

void StringFinder::add(std::string_view text) {
    if (text.size() > max_length)
        throw Error(ErrorCode::unsupported, fmt::format("an added token is too long (got {} bytes, limit {}): \"{}\"", text.size(),
                                                        max_length, printable(text, 40)));
    const std::uint32_t index = count_++;
    if (text.empty()) return;
    starts_[static_cast<unsigned char>(text[0])] = true;
    std::uint32_t node = 0;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        std::uint32_t next = child(node, byte);
        if (next == none) {
            next = static_cast<std::uint32_t>(nodes_.size());
            nodes_.push_back({none, nodes_[node].first_child, none, byte});
            nodes_[node].first_child = next;
        }
        node = next;
    }
    if (nodes_[node].index == none) nodes_[node].index = index;
}

bool StringFinder::find(std::string_view text, std::size_t from, Match& match) const noexcept {
    for (std::size_t at = from; at < text.size(); ++at)
        if (starts_[static_cast<unsigned char>(text[at])] && longest(text, at, match)) return true;
    return false;
}

bool StringFinder::longest(std::string_view text, std::size_t at, Match& match) const noexcept {
    bool found = false;
    std::uint32_t node = 0;
    for (std::size_t end = at; end < text.size();) {
        node = child(node, static_cast<unsigned char>(text[end]));
        if (node == none) break;
        ++end;
        if (nodes_[node].index == none) continue;
        match = {{at, end}, nodes_[node].index};
        found = true;
    }
    return found;
}

void AddedTokens::add(AddedToken token, const Vocabulary& model) {
    if (token.content.empty() || by_content_.contains(token.content)) return;
    if (const TokenId known = model.find(token.content); known != no_token)
        token.id = known;
    else
        token.id = std::max(static_cast<TokenId>(model.size()), largest_ + 1);
    if (static_cast<std::size_t>(token.id) >= max_vocabulary)
        throw Error(ErrorCode::malformed, fmt::format("too many tokens (limit {})", max_vocabulary));
    largest_ = std::max(largest_, token.id);
    by_id_.emplace(token.id, tokens_.size());
    by_content_.emplace(token.content, tokens_.size());
    tokens_.push_back(std::move(token));
}

void AddedTokens::prepare(const Normalizer& normalizer) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
        AddedToken& token = tokens_[i];
        Group& group = token.normalized ? in_normalized_ : in_original_;
        token.written = token.normalized && normalizer ? normalizer(token.content) : token.content;
        group.finder.add(token.written);
        group.token.push_back(i);
    }
}

void AddedTokens::split(std::string_view text, bool normalized, bool parse_special, std::vector<Segment>& segments) const {
    const Group& group = normalized ? in_normalized_ : in_original_;
    std::size_t done = 0, from = 0;
    StringFinder::Match match;
    while (group.finder.find(text, from, match)) {
        from = match.range.end;
        const AddedToken& token = tokens_[group.token[match.index]];
        if (token.special && !parse_special) continue;
        if (token.single_word && inside_word(text, match.range)) continue;
        Range range = match.range;
        if (token.lstrip) range.begin = without_space_before(text, range.begin, done);
        if (token.rstrip) range.end = without_space_behind(text, range.end);
        range.begin = std::max(range.begin, done);  // the token before may have taken the white space this one begins with
        if (range.begin > done) segments.push_back({{done, range.begin}, no_token});
        segments.push_back({range, token.id});
        done = std::max(done, range.end);
    }
    if (done < text.size()) segments.push_back({{done, text.size()}, no_token});
}

const AddedToken* AddedTokens::find(TokenId id) const noexcept {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const noexcept {
    const auto found = by_content_.find(std::string(content));
    return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace mixwright::tokenizer
