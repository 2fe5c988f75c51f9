// Choosing the next token from logits. Works on ids alone; knows nothing of text.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <random>
#include <span>

namespace mixwright::generate {

struct SamplingOptions {
    double temperature = 0.0;         // 0: greedy
    std::int64_t top_k = 0;           // > 0: only the k likeliest
    double top_p = 1.0;               // < 1: only the likeliest that together reach p (arXiv 1904.09751)
    double min_p = 0.0;               // > 0: only those at least min_p times as likely as the likeliest (arXiv 2407.01082)
    double repetition_penalty = 1.0;  // logits of tokens in the context are divided (or, when negative, multiplied) by it
    std::uint64_t seed = 0;
};

class Sampler {
public:
    /// Error(usage) naming the option when one is out of range.
    explicit Sampler(const SamplingOptions& options);

    /// `logits` [V] of any float dtype; `context` are the ids so far, prompt included. Filters apply in the order
    /// penalty, top_k, top_p, min_p, temperature, as in llama.cpp. Error(failed) when no logit is a finite number.
    std::int64_t sample(const at::Tensor& logits, std::span<const std::int64_t> context);

private:
    SamplingOptions options_;
    std::mt19937_64 random_;
};

}  // namespace mixwright::generate
