#include "ops/distillation_loss.h"

#include <ATen/ATen.h>

#include "ops/parallel.h"
#include "ops/vocabulary_rows.h"

namespace mixwright::ops {
namespace {

struct RowWeights {
    float divergence, cross_entropy;   // with the scale, and of the divergence T^2, multiplied in
    float sharpness;                   // 1 / T
};

// A row of the student's logits in S and of the teacher's: returns its loss; with `gradient`, the student's row becomes its gradient.
template <class S>
MIXWRIGHT_INLINE float row_loss(S* student, const float* teacher, std::int64_t width, std::int64_t target, const RowWeights& weights, bool gradient) {
    const float sharpness = weights.sharpness;
    const float student_sum = log_sum_exp(student, width, sharpness), teacher_sum = log_sum_exp(teacher, width, sharpness);
    constexpr std::int64_t lanes = 64;
    float sums[lanes] = {};
    std::int64_t i = 0;
    const auto term = [&](std::int64_t at) {
        const float log_p = sharpness * teacher[at] - teacher_sum, log_q = sharpness * widen(student[at]) - student_sum;
        return fast_exp(log_p) * (log_p - log_q);
    };
    for (; i + lanes <= width; i += lanes)
        for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += term(i + lane);
    double divergence = 0;
    for (; i < width; ++i) divergence += term(i);
    for (const float part : sums) divergence += part;

    float loss = weights.divergence * static_cast<float>(divergence), plain_sum = 0;
    if (weights.cross_entropy > 0) {
        plain_sum = sharpness == 1.0f ? student_sum : log_sum_exp(student, width);
        loss += weights.cross_entropy * (plain_sum - widen(student[target]));
    }
    if (!gradient) return loss;
    const float slope = weights.divergence * sharpness;
    const float target_logit = widen(student[target]);
    const auto of_divergence = [&](float logit, std::int64_t at) {
        return slope * (fast_exp(sharpness * logit - student_sum) - fast_exp(sharpness * teacher[at] - teacher_sum));
    };
    if (weights.cross_entropy > 0) {
        for (std::int64_t j = 0; j < width; ++j) {
            const float logit = widen(student[j]);
            student[j] = narrow<S>(of_divergence(logit, j) + weights.cross_entropy * fast_exp(logit - plain_sum));
        }
        student[target] = narrow<S>(of_divergence(target_logit, target) + weights.cross_entropy * (fast_exp(target_logit - plain_sum) - 1.0f));
    } else {
        for (std::int64_t j = 0; j < width; ++j) student[j] = narrow<S>(of_divergence(widen(student[j]), j));
    }
    return loss;
}

MIXWRIGHT_VECTORISED void rows_bf16(std::uint16_t* student, const float* teacher, std::int64_t begin, std::int64_t end, std::int64_t width,
                                    const std::int64_t* targets, const RowWeights& weights, bool gradient, float* losses) {
    for (std::int64_t n = begin; n < end; ++n) losses[n] = row_loss(student + n * width, teacher + n * width, width, targets[n], weights, gradient);
}

MIXWRIGHT_VECTORISED void rows_f32(float* student, const float* teacher, std::int64_t begin, std::int64_t end, std::int64_t width,
                                   const std::int64_t* targets, const RowWeights& weights, bool gradient, float* losses) {
    for (std::int64_t n = begin; n < end; ++n) losses[n] = row_loss(student + n * width, teacher + n * width, width, targets[n], weights, gradient);
}

// In any dtype, on any device.
at::Tensor plain_losses(at::Tensor& logits, const at::Tensor& teacher_logits, const at::Tensor& targets, const DistillationWeights& weights, double scale, bool gradient) {
    const at::ScalarType type = at::promote_types(logits.scalar_type(), at::kFloat);
    const double temperature = weights.temperature;
    const at::Tensor student = logits.to(type), column = targets.unsqueeze(1);
    const at::Tensor log_q = at::log_softmax(student / temperature, -1), log_p = at::log_softmax(teacher_logits.to(type) / temperature, -1), p = log_p.exp();
    at::Tensor losses = (p * (log_p - log_q)).sum(-1) * (weights.divergence * temperature * temperature), slope;
    if (gradient) slope = (log_q.exp() - p) * (weights.divergence * temperature);
    if (weights.cross_entropy > 0) {
        const at::Tensor log_probabilities = at::log_softmax(student, -1);
        losses = losses - log_probabilities.gather(1, column).squeeze(1) * weights.cross_entropy;
        if (gradient) slope.add_(log_probabilities.exp(), weights.cross_entropy).scatter_add_(1, column, at::full(column.sizes(), -weights.cross_entropy, slope.options()));
    }
    if (gradient) logits.copy_(slope.mul_(scale));
    return losses * scale;
}

at::Tensor losses_of(at::Tensor& logits, const at::Tensor& teacher_logits, const at::Tensor& targets, const DistillationWeights& weights, double scale, bool gradient) {
    const std::int64_t count = logits.size(0), width = logits.size(1);
    const bool bf16 = logits.scalar_type() == at::kBFloat16;
    if (!logits.is_cpu() || (!bf16 && logits.scalar_type() != at::kFloat)) return plain_losses(logits, teacher_logits, targets, weights, scale, gradient);
    const double temperature = weights.temperature;
    const RowWeights of_row{static_cast<float>(scale * weights.divergence * temperature * temperature), static_cast<float>(scale * weights.cross_entropy),
                            static_cast<float>(1 / temperature)};
    const at::Tensor wide = teacher_logits.to(at::kFloat);
    at::Tensor losses = at::empty({count}, at::kFloat);
    const auto* target = targets.const_data_ptr<std::int64_t>();
    const auto* teacher = wide.const_data_ptr<float>();
    auto* loss = losses.mutable_data_ptr<float>();
    void* student = logits.mutable_data_ptr();
    parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
        if (bf16)
            rows_bf16(static_cast<std::uint16_t*>(student), teacher, begin, end, width, target, of_row, gradient, loss);
        else
            rows_f32(static_cast<float*>(student), teacher, begin, end, width, target, of_row, gradient, loss);
    });
    return losses;
}

}  // namespace

at::Tensor distillation_loss(const at::Tensor& hidden, const at::Tensor& head, const HeadForm& form, const TeacherHead& teacher, const at::Tensor& targets,
                             const DistillationWeights& weights, double scale, std::int64_t chunk) {
    return head_loss(hidden, head, form, chunk, [&](at::Tensor& logits, std::int64_t begin, bool gradient) {
        const std::int64_t n = logits.size(0);
        const at::Tensor teacher_logits = head_logits(teacher.hidden.narrow(0, begin, n), teacher.head, teacher.form);
        return losses_of(logits, teacher_logits, targets.narrow(0, begin, n), weights, scale, gradient);
    });
}

}  // namespace mixwright::ops
