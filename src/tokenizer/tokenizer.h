// Text to ids and back: the one class that the rest of the project uses. Chat templates are chat_template.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/vocabulary.h"

namespace mixwright::tokenizer {

struct GgufVocab;
struct Pipeline;

struct EncodeOptions {
    bool add_special_tokens = true;  // those the post-processor puts around a text (BOS, EOS)
    bool parse_special = true;       // special tokens written in the text become their ids
};

/// Immutable and safe to use from several threads. Copies share everything.
class Tokenizer {
public:
    /// A model directory, a tokenizer.json or a tokenizer.model. In a directory tokenizer.json comes first, then tokenizer.model,
    /// then vocab.json with merges.txt. Error(not_found), Error(malformed), Error(unsupported) name file and place.
    static Tokenizer load(const std::filesystem::path& path);
    /// The vocabulary inside a .gguf file; `source` names it in messages.
    static Tokenizer from_gguf(const GgufVocab& vocab, std::string_view source);
    /// A parsed tokenizer.json.
    static Tokenizer from_json(const io::Json& tokenizer_json, std::string_view source);

    /// Invalid UTF-8 is read as U+FFFD. Time grows with n log n at most, or Error(failed).
    std::vector<TokenId> encode(std::string_view text, EncodeOptions options = {}) const;
    /// Appends to `ids`.
    void encode(std::string_view text, EncodeOptions options, std::vector<TokenId>& ids) const;
    /// Valid UTF-8. Ids without a token are left out; with `skip_special`, special tokens too.
    std::string decode(std::span<const TokenId> ids, bool skip_special = false) const;

    /// The id of a token as it is written in the vocabulary, added tokens included.
    std::optional<TokenId> token_to_id(std::string_view token) const;
    /// The token as it is written in the vocabulary; empty when `id` has none.
    std::string_view id_to_token(TokenId id) const;
    bool is_special(TokenId id) const;
    /// One more than the largest id.
    std::size_t vocab_size() const;
    const std::vector<AddedToken>& added_tokens() const;

    std::optional<TokenId> bos_id() const;
    std::optional<TokenId> eos_id() const;
    std::optional<TokenId> pad_id() const;
    std::optional<TokenId> unk_id() const;
    /// Whether encode() puts the BOS token first.
    bool adds_bos() const;

private:
    struct State;
    explicit Tokenizer(Pipeline pipeline);

    std::shared_ptr<const State> state_;
};

/// Decodes a stream of ids a token at a time. Text comes out as soon as it is certain: a character whose bytes are spread
/// over several tokens is held back until it is whole.
class StreamDecoder {
public:
    explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = true) : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

    /// The text that `id` completes; may be empty.
    std::string push(TokenId id);
    /// What was held back, with U+FFFD for bytes that never became a character. Then it starts anew.
    std::string finish();

private:
    Tokenizer tokenizer_;
    bool skip_special_;
    std::vector<TokenId> ids_;       // context of the last text, then ids whose text is not out yet
    std::size_t context_ = 0;        // how many of ids_ are context
    std::string context_text_;
};

}  // namespace mixwright::tokenizer
