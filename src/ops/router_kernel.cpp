#include "ops/router_kernel.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "ops/fast_math.h"
#include "ops/kernel_use.h"
#include "ops/parallel.h"

namespace mixwright::ops {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

// Scores of one token, and what ranks them.
struct Row {
    std::vector<float> scores, ranked, groups;
};

template <class T>
MIXWRIGHT_INLINE void score(const T* logits, std::int64_t count, bool softmax, float* scores) {
    if (!softmax) {
        for (std::int64_t e = 0; e < count; ++e) scores[e] = 1.0f / (1.0f + std::exp(-widen(logits[e])));
        return;
    }
    float highest = minus_infinity, sum = 0;
    for (std::int64_t e = 0; e < count; ++e) highest = std::max(highest, widen(logits[e]));
    for (std::int64_t e = 0; e < count; ++e) sum += scores[e] = std::exp(widen(logits[e]) - highest);
    for (std::int64_t e = 0; e < count; ++e) scores[e] /= sum;
}

// Leaves only the experts of the best groups in `ranked`.
void keep_best_groups(Row& row, const RouterForm& form) {
    const auto groups = static_cast<std::size_t>(form.num_groups), size = row.ranked.size() / groups;
    row.groups.assign(groups, 0);
    for (std::size_t g = 0; g < groups; ++g) {
        float best = minus_infinity, second = minus_infinity;
        for (std::size_t i = g * size; i < (g + 1) * size; ++i) {
            if (row.ranked[i] > best) second = std::exchange(best, row.ranked[i]);
            else second = std::max(second, row.ranked[i]);
        }
        row.groups[g] = form.group_score == arch::GroupScore::best ? best : best + second;
    }
    for (std::int64_t kept = 0; kept < form.top_groups; ++kept) *std::ranges::max_element(row.groups) = minus_infinity;
    // What is left standing was not among the best.
    for (std::size_t g = 0; g < groups; ++g)
        if (row.groups[g] != minus_infinity) std::fill(row.ranked.begin() + g * size, row.ranked.begin() + (g + 1) * size, minus_infinity);
}

void choose_row(Row& row, const float* correction, const RouterForm& form, float* weights, std::int64_t* experts) {
    row.ranked = row.scores;
    if (correction != nullptr)
        for (std::size_t e = 0; e < row.ranked.size(); ++e) row.ranked[e] += correction[e];
    if (form.num_groups > 1) keep_best_groups(row, form);
    float sum = 0;
    for (std::int64_t k = 0; k < form.top_k; ++k) {
        const auto best = std::ranges::max_element(row.ranked) - row.ranked.begin();
        experts[k] = best;
        sum += weights[k] = row.scores[static_cast<std::size_t>(best)];
        row.ranked[static_cast<std::size_t>(best)] = minus_infinity;
    }
    const float factor = static_cast<float>(form.scale) / (form.normalize ? sum : 1.0f);
    for (std::int64_t k = 0; k < form.top_k; ++k) weights[k] *= factor;
}

}  // namespace

bool router_kernel_applies(const at::Tensor& logits, const RouterForm& form) {
    return kernels_apply(logits) && logits.is_contiguous() && form.scores != arch::RouterScores::sparsemixer;
}

void choose_with_kernel(Routing& routing, const at::Tensor& correction, const RouterForm& form) {
    const std::int64_t rows = routing.logits.size(0), count = routing.logits.size(1);
    routing.weights = at::empty({rows, form.top_k}, routing.logits.options().dtype(at::kFloat));
    routing.experts = at::empty({rows, form.top_k}, routing.logits.options().dtype(at::kLong));
    const at::Tensor corrections = correction.defined() ? correction.to(at::kFloat).contiguous() : correction;
    const float* added = corrections.defined() ? corrections.const_data_ptr<float>() : nullptr;
    auto* weights = routing.weights.mutable_data_ptr<float>();
    auto* experts = routing.experts.mutable_data_ptr<std::int64_t>();
    const bool softmax = form.scores == arch::RouterScores::softmax, bf16 = routing.logits.scalar_type() == at::kBFloat16;
    const void* logits = routing.logits.const_data_ptr();
    parallel_for(0, rows, 64, [&](std::int64_t begin, std::int64_t end) {
        Row row;
        row.scores.resize(static_cast<std::size_t>(count));
        for (std::int64_t n = begin; n < end; ++n) {
            if (bf16)
                score(static_cast<const std::uint16_t*>(logits) + n * count, count, softmax, row.scores.data());
            else
                score(static_cast<const float*>(logits) + n * count, count, softmax, row.scores.data());
            choose_row(row, added, form, weights + n * form.top_k, experts + n * form.top_k);
        }
    });
}

}  // namespace mixwright::ops
