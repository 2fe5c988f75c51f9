// How well a model predicts a text: mean negative log-likelihood per token, and its exponential.
#pragma once

#include <cstdint>
#include <optional>

#include "arch/canonical.h"
#include "data/packing.h"
#include "model/decoder.h"
#include "model/model.h"

namespace mixwright::evaluate {

struct PerplexityOptions {
    std::int64_t context = 512;        // tokens of a window
    std::int64_t max_tokens = 0;       // of the text; 0: all
    std::int64_t batch = 4;            // windows run together
};

struct Perplexity {
    double nll = 0;                    // nats per predicted token
    double stderr_nll = 0;             // of that mean, over tokens
    std::int64_t tokens = 0;           // predicted tokens
    double perplexity() const;
};

/// Cuts `text` into windows of `context` tokens that do not overlap; in each, every token but the first is predicted from
/// those before it in the window, and counts when its `learn` is set. A last window of fewer than two tokens is left out.
/// With `bos`, every window begins with it (and all of the text's tokens are predicted). Error(mismatch) when no token
/// is left to predict.
Perplexity perplexity(const model::Model& model, const data::TokenStream& text, std::optional<std::int64_t> bos,
                      const PerplexityOptions& options);

/// The same with one layer in memory at a time.
Perplexity perplexity_streamed(const arch::OpenModel& model, const model::Placement& placement, const data::TokenStream& text,
                               std::optional<std::int64_t> bos, const PerplexityOptions& options);

}  // namespace mixwright::evaluate
