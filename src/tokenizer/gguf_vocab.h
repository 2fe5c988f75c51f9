// The vocabulary inside a GGUF file, and the Hugging Face tokenizer it was made from. It knows nothing of the file format:
// the reader of GGUF fills the struct in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "tokenizer/pipeline.h"

namespace mixwright::tokenizer {

/// Keys tokenizer.ggml.*, as they stand in the file.
struct GgufVocab {
    enum TokenType : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

    std::string model;                      // "gpt2", "llama", "gemma4", "t5", "bert"
    std::string pre;                        // which regular expressions cut the text ("llama-bpe"); model "gpt2" only
    std::vector<std::string> tokens;        // token i has id i
    std::vector<float> scores;              // [tokens] or empty
    std::vector<std::int32_t> token_types;  // [tokens] or empty
    std::vector<std::string> merges;        // "left right"
    std::optional<std::int64_t> bos_id, eos_id, unk_id, pad_id;
    std::optional<bool> add_bos, add_eos, add_space_prefix;
    std::string chat_template;              // tokenizer.chat_template, empty when there is none
};

/// The vocabulary in the metadata of a GGUF file (key -> value). Error(malformed) on missing or mistyped keys.
GgufVocab gguf_vocab_from_metadata(const io::Json& metadata, std::string_view source);

/// A tokenizer.json that gives the same ids. Error(unsupported) for a kind or `pre` that is not known, Error(malformed)
/// for arrays that do not fit each other; both name `source`.
io::Json to_tokenizer_json(const GgufVocab& vocab, std::string_view source);
/// The tokenizer_config.json that goes with it: special tokens by their roles, the class, add_bos_token and its like. The
/// chat template is left out: it has a file of its own.
io::Json to_tokenizer_config(const GgufVocab& vocab, std::string_view source);

Pipeline pipeline_from_gguf(const GgufVocab& vocab, std::string_view source);

}  // namespace mixwright::tokenizer
