#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "tokenizer/gguf_vocab.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

// What one call of encode() writes to.
struct Workspace {
    std::unique_ptr<Model::Scratch> scratch;
    std::vector<AddedTokens::Segment> segments, inner;
    Pieces pieces;
    std::string normalized;
};

}  // namespace

struct Tokenizer::State {
    Pipeline pipeline;

    // Workspaces wait here between calls, so that each thread finds warm buffers and a warm word cache.
    mutable std::mutex mutex;
    mutable std::vector<std::unique_ptr<Workspace>> idle;

    std::unique_ptr<Workspace> borrow() const {
        {
            const std::lock_guard lock(mutex);
            if (!idle.empty()) {
                auto workspace = std::move(idle.back());
                idle.pop_back();
                return workspace;
            }
        }
        auto workspace = std::make_unique<Workspace>();
        workspace->scratch = pipeline.model->make_scratch();
        return workspace;
    }
    void give_back(std::unique_ptr<Workspace> workspace) const {
        const std::lock_guard lock(mutex);
        idle.push_back(std::move(workspace));
    }

    void encode_text(std::string_view text, bool at_start, Workspace& work, std::vector<TokenId>& ids) const {
        work.pieces.reset(text, at_start);
        pipeline.pre_tokenizer.apply(work.pieces);
        for (std::size_t i = 0; i < work.pieces.ranges.size(); ++i) pipeline.model->encode(work.pieces[i], *work.scratch, ids);
    }

    // Text between tokens that were found in the original: normalized, then cut at those found only now.
    void encode_between(std::string_view text, bool at_start, bool parse_special, Workspace& work, std::vector<TokenId>& ids) const {
        if (pipeline.normalizer) {
            work.normalized = pipeline.normalizer(text);
            text = work.normalized;
        }
        if (!pipeline.added.any(true)) return encode_text(text, at_start, work, ids);
        work.inner.clear();
        pipeline.added.split(text, true, parse_special, work.inner);
        for (const auto& segment : work.inner) {
            if (segment.id != no_token)
                ids.push_back(segment.id);
            else
                encode_text(text.substr(segment.range.begin, segment.range.end - segment.range.begin),
                            at_start && segment.range.begin == 0, work, ids);
        }
    }
};

Tokenizer::Tokenizer(Pipeline pipeline) {
    auto state = std::make_shared<State>();
    state->pipeline = std::move(pipeline);
    state_ = std::move(state);
}

Tokenizer Tokenizer::from_json(const io::Json& tokenizer_json, std::string_view source) {
    return Tokenizer(pipeline_from_json(tokenizer_json, source));
}

Tokenizer Tokenizer::from_gguf(const GgufVocab& vocab, std::string_view source) {
    return Tokenizer(pipeline_from_gguf(vocab, source));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
    std::vector<TokenId> ids;
    encode(text, options, ids);
    return ids;
}

void Tokenizer::encode(std::string_view text, EncodeOptions options, std::vector<TokenId>& ids) const {
    const Pipeline& pipeline = state_->pipeline;
    std::string repaired;
    if (valid_utf8_prefix(text) != text.size()) {
        repaired = replace_invalid_utf8(text);
        text = repaired;
    }
    auto work = state_->borrow();
    const auto add = [&](const std::vector<TokenId>& special) {
        if (options.add_special_tokens) ids.insert(ids.end(), special.begin(), special.end());
    };
    add(pipeline.post_processor.before);
    work->segments.clear();
    pipeline.added.split(text, false, options.parse_special, work->segments);
    for (const auto& segment : work->segments) {
        if (segment.id != no_token)
            ids.push_back(segment.id);
        else
            state_->encode_between(text.substr(segment.range.begin, segment.range.end - segment.range.begin), segment.range.begin == 0,
                                   options.parse_special, *work, ids);
    }
    add(pipeline.post_processor.behind);
    state_->give_back(std::move(work));
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
    const Pipeline& pipeline = state_->pipeline;
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const TokenId id : ids) {
        const AddedToken* added = pipeline.added.find(id);
        if (added != nullptr && added->special && skip_special) continue;
        if (added != nullptr) tokens.push_back(added->written);
        else if (pipeline.model->vocabulary().has(id)) tokens.emplace_back(pipeline.model->vocabulary().token(id));
    }
    if (pipeline.decoder && !tokens.empty()) pipeline.decoder(tokens);
    std::string text;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (i > 0 && !pipeline.decoder) text += ' ';
        text += tokens[i];
    }
    return valid_utf8_prefix(text) == text.size() ? text : replace_invalid_utf8(text);
}

std::optional<TokenId> Tokenizer::token_to_id(std::string_view token) const {
    if (const AddedToken* added = state_->pipeline.added.find(token)) return added->id;
    const TokenId id = state_->pipeline.model->vocabulary().find(token);
    return id == no_token ? std::nullopt : std::optional(id);
}

std::string_view Tokenizer::id_to_token(TokenId id) const {
    if (const AddedToken* added = state_->pipeline.added.find(id)) return added->written;
    return state_->pipeline.model->vocabulary().token(id);
}

bool Tokenizer::is_special(TokenId id) const {
    const AddedToken* added = state_->pipeline.added.find(id);
    return added != nullptr && added->special;
}

std::size_t Tokenizer::vocab_size() const {
    std::size_t limit = state_->pipeline.model->vocabulary().id_limit();
    for (const AddedToken& token : added_tokens()) limit = std::max(limit, static_cast<std::size_t>(token.id) + 1);
    return limit;
}

const std::vector<AddedToken>& Tokenizer::added_tokens() const { return state_->pipeline.added.tokens(); }

namespace {

std::optional<TokenId> present(TokenId id) { return id == no_token ? std::nullopt : std::optional(id); }

}  // namespace

std::optional<TokenId> Tokenizer::bos_id() const { return present(state_->pipeline.roles.bos); }
std::optional<TokenId> Tokenizer::eos_id() const { return present(state_->pipeline.roles.eos); }
std::optional<TokenId> Tokenizer::pad_id() const { return present(state_->pipeline.roles.pad); }
std::optional<TokenId> Tokenizer::unk_id() const { return present(state_->pipeline.roles.unk); }

bool Tokenizer::adds_bos() const {
    const auto& before = state_->pipeline.post_processor.before;
    return !before.empty() && before.front() == state_->pipeline.roles.bos;
}

std::string StreamDecoder::push(TokenId id) {
    ids_.push_back(id);
    std::string text = tokenizer_.decode(ids_, skip_special_);
    // A text that ends with U+FFFD may be the beginning of a character that the next tokens complete.
    if (text.size() <= context_text_.size() || text.ends_with(replacement_character)) return {};
    std::string fresh = text.substr(context_text_.size());
    ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(context_));
    context_ = ids_.size();
    context_text_ = tokenizer_.decode(ids_, skip_special_);
    return fresh;
}

std::string StreamDecoder::finish() {
    std::string text = tokenizer_.decode(ids_, skip_special_);
    std::string rest = text.size() > context_text_.size() ? text.substr(context_text_.size()) : std::string();
    ids_.clear();
    context_ = 0;
    context_text_.clear();
    return rest;
}

}  // namespace mixwright::tokenizer
