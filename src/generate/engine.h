// Generates token ids after a prompt with a KV cache. Knows nothing of text.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "generate/sampler.h"
#include "model/model.h"

namespace mixwright::generate {

struct GenerateOptions {
    std::int64_t max_new_tokens = 128;
    std::int64_t context_size = 0;             // 0: the model's max_position_embeddings
    std::vector<std::int64_t> stop_ids;        // generation ends before one of these
    SamplingOptions sampling;
};

struct GenerateResult {
    std::vector<std::int64_t> ids;             // without the prompt and the stop id
    bool stopped = false;                      // by a stop id or by on_token, rather than by length
    std::int64_t reused = 0;                   // tokens of the prompt that were in the cache already
    double prompt_seconds = 0, decode_seconds = 0;
};

/// One sequence that goes on over several calls: what a prompt has in common with the tokens seen before is not computed
/// again.
class Session {
public:
    /// `model` must outlive it. Room for `context_size` tokens, 0: the model's max_position_embeddings.
    Session(const model::Model& model, std::int64_t context_size);

    /// Generates from `prompt` (at least one id); options.context_size is not looked at. `on_token` sees each new id as it
    /// comes and returns whether to go on. With `taps` nothing is reused, so that they see every token.
    /// Error(failed) when the prompt does not fit the context.
    GenerateResult generate(std::span<const std::int64_t> prompt, const GenerateOptions& options,
                            const std::function<bool(std::int64_t id)>& on_token = {}, model::Taps* taps = nullptr);

    std::int64_t context_size() const noexcept { return cache_.max_length(); }

private:
    /// Runs ids_[cached.., end) and returns the last hidden state [1, D].
    at::Tensor extend(std::int64_t end, model::Taps* taps);

    const model::Model& model_;
    model::KvCache cache_;
    std::vector<std::int64_t> ids_;            // of which the first cache_.length() are in the cache
};

/// The same for a single prompt.
GenerateResult generate(const model::Model& model, std::span<const std::int64_t> prompt, const GenerateOptions& options,
                        const std::function<bool(std::int64_t id)>& on_token = {}, model::Taps* taps = nullptr);

}  // namespace mixwright::generate
