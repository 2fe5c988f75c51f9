#include "tokenizer/unigram.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <numeric>

#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

constexpr double unknown_penalty = 10.0;  // below the worst token, as in SentencePiece
constexpr std::size_t max_token_bytes = 4096;

}  // namespace

struct Unigram::Scratch final : Model::Scratch {
    static constexpr std::uint32_t nowhere = ~std::uint32_t{0};
    struct End {  // the best way to reach a byte position
        double score = 0;
        std::uint32_t begin = nowhere;  // where its last token begins
        TokenId id = no_token;
    };
    std::vector<End> ends;
    std::vector<std::uint32_t> path;
};

Unigram::Unigram(std::vector<ScoredToken> tokens, TokenId unknown, bool byte_fallback)
    : unknown_(unknown), byte_fallback_(byte_fallback) {
    vocabulary_.reserve(tokens.size());
    double worst = tokens.empty() ? 0 : std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i].token.size() > max_token_bytes)
            throw Error(ErrorCode::unsupported,
                        fmt::format("token {} is too long (got {} bytes, limit {})", i, tokens[i].token.size(), max_token_bytes));
        vocabulary_.add(tokens[i].token, static_cast<TokenId>(i));
        scores_.push_back(tokens[i].score);
        worst = std::min(worst, tokens[i].score);
    }
    unknown_score_ = worst - unknown_penalty;
    build_trie();
}

// Breadth first over the sorted tokens, so that the children of a node come to lie side by side.
void Unigram::build_trie() {
    struct Span {
        std::size_t begin, end, depth;
        std::uint32_t node;
    };
    std::vector<TokenId> sorted;
    for (TokenId id = 0; static_cast<std::size_t>(id) < vocabulary_.id_limit(); ++id)
        if (!vocabulary_.token(id).empty()) sorted.push_back(id);
    std::sort(sorted.begin(), sorted.end(), [&](TokenId a, TokenId b) { return vocabulary_.token(a) < vocabulary_.token(b); });
    nodes_.resize(1);
    std::deque<Span> open{{0, sorted.size(), 0, 0}};
    while (!open.empty()) {
        Span span = open.front();
        open.pop_front();
        nodes_[span.node].children = static_cast<std::uint32_t>(nodes_.size());
        if (span.begin < span.end && vocabulary_.token(sorted[span.begin]).size() == span.depth)
            nodes_[span.node].id = sorted[span.begin++];
        while (span.begin < span.end) {
            const auto byte = static_cast<unsigned char>(vocabulary_.token(sorted[span.begin])[span.depth]);
            std::size_t end = span.begin + 1;
            while (end < span.end && static_cast<unsigned char>(vocabulary_.token(sorted[end])[span.depth]) == byte) ++end;
            open.push_back({span.begin, end, span.depth + 1, static_cast<std::uint32_t>(nodes_.size())});
            nodes_.push_back({.byte = byte});
            ++nodes_[span.node].count;
            span.begin = end;
        }
    }
}

const Unigram::Node* Unigram::child(const Node& node, unsigned char byte) const noexcept {
    const Node* const first = nodes_.data() + node.children;
    const Node* const last = first + node.count;
    const Node* const found = std::lower_bound(first, last, byte, [](const Node& n, unsigned char b) { return n.byte < b; });
    return found != last && found->byte == byte ? found : nullptr;
}

std::unique_ptr<Model::Scratch> Unigram::make_scratch() const { return std::make_unique<Scratch>(); }

void Unigram::encode(std::string_view piece, Model::Scratch& base, std::vector<TokenId>& ids) const {
    auto& scratch = static_cast<Scratch&>(base);
    constexpr auto nowhere = Scratch::nowhere;
    if (piece.size() >= nowhere) throw Error(ErrorCode::unsupported, fmt::format("the text is too long (got {} bytes)", piece.size()));
    auto& ends = scratch.ends;
    ends.assign(piece.size() + 1, {});
    const auto reach = [&](std::size_t end, std::size_t begin, double score, TokenId id) {
        if (ends[end].begin == nowhere || score > ends[end].score) ends[end] = {score, static_cast<std::uint32_t>(begin), id};
    };
    for (std::size_t begin = 0; begin < piece.size();) {
        const double score = ends[begin].score;
        const std::size_t character = utf8_length(piece[begin]);
        bool covered = false;  // a token of exactly this character exists
        const Node* node = nodes_.data();
        for (std::size_t at = begin; at < piece.size(); ++at) {
            node = child(*node, static_cast<unsigned char>(piece[at]));
            if (node == nullptr) break;
            if (node->id == no_token) continue;
            reach(at + 1, begin, score + scores_[static_cast<std::size_t>(node->id)], node->id);
            covered |= at + 1 - begin == character;
        }
        if (!covered) reach(begin + character, begin, score + unknown_score_, no_token);
        begin += character;
    }

    scratch.path.clear();
    for (std::size_t end = piece.size(); end > 0; end = ends[end].begin) scratch.path.push_back(static_cast<std::uint32_t>(end));
    std::size_t unknown_from = piece.size();  // of the run of unknown characters under way
    for (auto end = scratch.path.rbegin(); end != scratch.path.rend(); ++end) {
        const auto& step = ends[*end];
        const bool is_unknown = step.id == no_token || step.id == unknown_;
        if (is_unknown) {
            unknown_from = std::min<std::size_t>(unknown_from, step.begin);
            continue;
        }
        if (unknown_from < step.begin) push_unknown(piece.substr(unknown_from, step.begin - unknown_from), ids);
        unknown_from = piece.size();
        ids.push_back(step.id);
    }
    if (unknown_from < piece.size()) push_unknown(piece.substr(unknown_from), ids);
}

void Unigram::push_unknown(std::string_view text, std::vector<TokenId>& ids) const {
    if (const TokenId whole = vocabulary_.find(text); whole != no_token) return ids.push_back(whole);
    if (byte_fallback_) {
        const std::size_t before = ids.size();
        for (const char byte : text) ids.push_back(vocabulary_.find(byte_token(static_cast<unsigned char>(byte))));
        if (std::find(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end(), no_token) == ids.end()) return;
        ids.resize(before);
    }
    if (unknown_ == no_token)
        throw Error(ErrorCode::failed, fmt::format("the tokenizer has no token for \"{}\" and no unknown token", printable(text, 40)));
    ids.push_back(unknown_);
}

Unigram unigram_from_json(const io::Json& model, const std::string& where) {
    const io::Json& list = array_field(model, "vocab", where);
    if (list.size() > max_vocabulary)
        throw Error(ErrorCode::malformed, fmt::format("{}.vocab: too many tokens (got {}, limit {})", where, list.size(), max_vocabulary));
    std::vector<ScoredToken> tokens;
    tokens.reserve(list.size());
    for (const io::Json& entry : list) {
        if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number() ||
            !std::isfinite(entry[1].get<double>()))
            throw Error(ErrorCode::malformed, fmt::format("{}.vocab[{}]: expected [token, score]", where, tokens.size()));
        tokens.push_back({entry[0].get<std::string>(), entry[1].get<double>()});
    }
    const auto unknown = field_or<std::uint64_t>(model, "unk_id", ~std::uint64_t{0}, where);
    if (unknown != ~std::uint64_t{0} && unknown >= tokens.size())
        throw Error(ErrorCode::malformed, fmt::format("{}.unk_id: not a token (got {}, expected below {})", where, unknown, tokens.size()));
    return Unigram(std::move(tokens), unknown == ~std::uint64_t{0} ? no_token : static_cast<TokenId>(unknown),
                   field_or(model, "byte_fallback", false, where));
}

}  // namespace mixwright::tokenizer
