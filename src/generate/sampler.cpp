#include "generate/sampler.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <vector>

#include "error.h"

namespace mixwright::generate {
namespace {

void require(bool holds, const char* option, double value, const char* allowed) {
    if (!holds) throw Error(ErrorCode::usage, fmt::format("{}: out of range (got {}, allowed {})", option, value, allowed));
}

struct Candidate {
    std::int64_t id;
    double logit;
};

// Probabilities of `candidates` (best first) relative to the best one.
std::vector<double> relative_weights(const std::vector<Candidate>& candidates, double temperature) {
    std::vector<double> weights;
    for (const Candidate& c : candidates) weights.push_back(std::exp((c.logit - candidates.front().logit) / temperature));
    return weights;
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
    require(options.temperature >= 0 && std::isfinite(options.temperature), "--temp", options.temperature, "0 and up");
    require(options.top_k >= 0, "--top-k", static_cast<double>(options.top_k), "0 and up");
    require(options.top_p > 0 && options.top_p <= 1, "--top-p", options.top_p, "above 0 to 1");
    require(options.min_p >= 0 && options.min_p <= 1, "--min-p", options.min_p, "0 to 1");
    require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty), "--repeat-penalty",
            options.repetition_penalty, "above 0");
}

std::int64_t Sampler::sample(const at::Tensor& logits, std::span<const std::int64_t> context) {
    at::Tensor values = logits.to(at::kCPU, at::kFloat).contiguous();
    if (options_.repetition_penalty != 1.0) {
        values = values.clone();
        auto* data = values.mutable_data_ptr<float>();
        const auto penalty = static_cast<float>(options_.repetition_penalty);
        for (const std::int64_t id : std::unordered_set<std::int64_t>(context.begin(), context.end()))
            data[id] = data[id] > 0 ? data[id] / penalty : data[id] * penalty;
    }
    const auto* data = values.const_data_ptr<float>();
    const std::int64_t vocab = values.numel();
    const std::int64_t best = std::max_element(data, data + vocab) - data;
    if (!std::isfinite(data[best]))
        throw Error(ErrorCode::failed, "the model's logits are not finite numbers", "check the weights: mixwright inspect MODEL --verify");
    if (options_.temperature == 0) return best;

    std::vector<Candidate> candidates;
    for (std::int64_t id = 0; id < vocab; ++id)
        if (!std::isnan(data[id])) candidates.push_back({id, data[id]});
    const auto better = [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; };
    if (options_.top_k > 0 && options_.top_k < static_cast<std::int64_t>(candidates.size())) {
        std::partial_sort(candidates.begin(), candidates.begin() + options_.top_k, candidates.end(), better);
        candidates.resize(static_cast<std::size_t>(options_.top_k));
    } else {
        std::ranges::sort(candidates, better);
    }
    if (options_.top_p < 1) {
        const std::vector<double> weights = relative_weights(candidates, 1.0);
        double total = 0, reached = 0;
        for (const double w : weights) total += w;
        std::size_t kept = 0;
        while (kept < weights.size() && reached < options_.top_p * total) reached += weights[kept++];
        candidates.resize(std::max<std::size_t>(kept, 1));
    }
    if (options_.min_p > 0) {
        const double lowest = candidates.front().logit + std::log(options_.min_p);
        std::erase_if(candidates, [&](const Candidate& c) { return c.logit < lowest; });
    }
    const std::vector<double> weights = relative_weights(candidates, options_.temperature);
    double total = 0;
    for (const double w : weights) total += w;
    double target = std::uniform_real_distribution<double>(0, total)(random_);
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        target -= weights[i];
        if (target < 0) return candidates[i].id;
    }
    return candidates.back().id;
}

}  // namespace mixwright::generate
