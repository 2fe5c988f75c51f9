#include "ops/vocabulary_loss.h"

#include <ATen/ATen.h>

#include "ops/parallel.h"
#include "ops/vocabulary_rows.h"

namespace mixwright::ops {
namespace {

// A row of logits in T: returns its loss; with `gradient`, the row becomes scale * (softmax - onehot).
template <class T>
MIXWRIGHT_INLINE float row_loss(T* row, std::int64_t width, std::int64_t target, float scale, bool gradient) {
    const float log_sum = log_sum_exp(row, width), target_logit = widen(row[target]);
    if (gradient) {
        for (std::int64_t j = 0; j < width; ++j) row[j] = narrow<T>(scale * fast_exp(widen(row[j]) - log_sum));
        row[target] = narrow<T>(scale * (fast_exp(target_logit - log_sum) - 1.0f));
    }
    return log_sum - target_logit;
}

MIXWRIGHT_VECTORISED void rows_bf16(std::uint16_t* logits, std::int64_t begin, std::int64_t end, std::int64_t width, const std::int64_t* targets,
                                    float scale, bool gradient, float* losses) {
    for (std::int64_t n = begin; n < end; ++n) losses[n] = row_loss(logits + n * width, width, targets[n], scale, gradient);
}

MIXWRIGHT_VECTORISED void rows_f32(float* logits, std::int64_t begin, std::int64_t end, std::int64_t width, const std::int64_t* targets,
                                   float scale, bool gradient, float* losses) {
    for (std::int64_t n = begin; n < end; ++n) losses[n] = row_loss(logits + n * width, width, targets[n], scale, gradient);
}

// logits [n, V] -> losses f32 [n]; with `gradient`, logits become the gradient of scale * sum(losses).
at::Tensor losses_of(const at::Tensor& logits, const at::Tensor& targets, float scale, bool gradient) {
    const std::int64_t count = logits.size(0), width = logits.size(1);
    const bool bf16 = logits.scalar_type() == at::kBFloat16;
    if (logits.is_cpu() && logits.is_contiguous() && (bf16 || logits.scalar_type() == at::kFloat)) {
        at::Tensor losses = at::empty({count}, at::kFloat);
        const auto* target = targets.const_data_ptr<std::int64_t>();
        auto* loss = losses.mutable_data_ptr<float>();
        void* data = logits.mutable_data_ptr();
        parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
            if (bf16)
                rows_bf16(static_cast<std::uint16_t*>(data), begin, end, width, target, scale, gradient, loss);
            else
                rows_f32(static_cast<float*>(data), begin, end, width, target, scale, gradient, loss);
        });
        return losses;
    }
    const at::Tensor log_probabilities = at::log_softmax(logits.to(at::promote_types(logits.scalar_type(), at::kFloat)), -1), column = targets.unsqueeze(1);
    const at::Tensor losses = -log_probabilities.gather(1, column).squeeze(1);
    if (gradient) {
        at::Tensor probabilities = log_probabilities.exp();
        probabilities.scatter_add_(1, column, at::full(column.sizes(), -1.0, probabilities.options()));
        logits.copy_(probabilities.mul_(scale));
    }
    return losses;
}

}  // namespace

at::Tensor vocabulary_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double scale, std::int64_t chunk,
                           const HeadForm& form) {
    return head_loss(hidden, head, form, chunk, [&](at::Tensor& logits, std::int64_t begin, bool gradient) {
        return losses_of(logits, targets.narrow(0, begin, logits.size(0)), static_cast<float>(scale), gradient) * scale;
    });
}

at::Tensor token_losses(const at::Tensor& logits, const at::Tensor& targets) {
    const at::NoGradGuard guard;
    return losses_of(logits.contiguous(), targets.contiguous(), 1.0f, false);
}

}  // namespace mixwright::ops
