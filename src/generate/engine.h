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
    double prompt_seconds = 0, decode_seconds = 0;
};

/// Generates from `prompt` (at least one id). `on_token` sees each new id as it comes and returns whether to go on.
/// Error(failed) when the prompt does not fit the context.
GenerateResult generate(const model::Model& model, std::span<const std::int64_t> prompt, const GenerateOptions& options,
                        const std::function<bool(std::int64_t id)>& on_token = {}, model::Taps* taps = nullptr);

}  // namespace mixwright::generate
