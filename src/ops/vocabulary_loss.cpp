#include "ops/vocabulary_loss.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <optional>

#include "ops/fast_math.h"
#include "ops/product.h"

namespace mixwright::ops {
namespace {

// A row of logits in T: returns its loss; with `gradient`, the row becomes scale * (softmax - onehot).
template <class T>
MIXWRIGHT_INLINE float row_loss(T* row, std::int64_t width, std::int64_t target, float scale, bool gradient) {
    float highest = -INFINITY;
    for (std::int64_t i = 0; i < width; ++i) highest = widen(row[i]) > highest ? widen(row[i]) : highest;
    // Partial sums: one long sum in f32 would lose the small terms, and would not vectorise.
    constexpr std::int64_t lanes = 64;
    float sums[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= width; i += lanes)
        for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += fast_exp(widen(row[i + lane]) - highest);
    double sum = 0;
    for (; i < width; ++i) sum += fast_exp(widen(row[i]) - highest);
    for (const float part : sums) sum += part;

    const float log_sum = highest + std::log(static_cast<float>(sum));
    const float target_logit = widen(row[target]);
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
at::Tensor losses_of(at::Tensor& logits, const at::Tensor& targets, float scale, bool gradient) {
    const std::int64_t count = logits.size(0), width = logits.size(1);
    const bool bf16 = logits.scalar_type() == at::kBFloat16;
    if (logits.is_cpu() && (bf16 || logits.scalar_type() == at::kFloat)) {
        at::Tensor losses = at::empty({count}, at::kFloat);
        const auto* target = targets.const_data_ptr<std::int64_t>();
        auto* loss = losses.mutable_data_ptr<float>();
        void* data = logits.mutable_data_ptr();
        at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
            if (bf16)
                rows_bf16(static_cast<std::uint16_t*>(data), begin, end, width, target, scale, gradient, loss);
            else
                rows_f32(static_cast<float*>(data), begin, end, width, target, scale, gradient, loss);
        });
        return losses;
    }
    const at::Tensor log_probabilities = at::log_softmax(logits, -1, at::kFloat), column = targets.unsqueeze(1);
    const at::Tensor losses = -log_probabilities.gather(1, column).squeeze(1);
    if (gradient) {
        at::Tensor probabilities = log_probabilities.exp();
        probabilities.scatter_add_(1, column, at::full(column.sizes(), -1.0, probabilities.options()));
        logits.copy_(probabilities.mul_(scale));
    }
    return losses;
}

// Logits [n, V] in a form that losses_of may overwrite; `tanh` receives what the gradient of the cap needs.
at::Tensor head_logits(const at::Tensor& rows, const at::Tensor& head, const HeadForm& form, at::Tensor* tanh = nullptr) {
    at::Tensor logits = linear_product(rows, head, form.bias);
    if (form.divisor != 1.0) logits.div_(form.divisor);
    if (form.softcap <= 0) return logits;
    logits.div_(form.softcap).tanh_();
    if (tanh != nullptr) *tanh = logits.clone();
    return logits.mul_(form.softcap);
}

class VocabularyLoss : public torch::autograd::Function<VocabularyLoss> {
public:
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                              const std::optional<at::Tensor>& maybe_bias, double scale, std::int64_t chunk, double divisor, double softcap) {
        const at::Tensor bias = maybe_bias.value_or(at::Tensor());
        const HeadForm form{bias, divisor, softcap};
        const std::int64_t count = hidden.size(0);
        const bool for_hidden = hidden.requires_grad(), for_head = head.requires_grad(), for_bias = bias.defined() && bias.requires_grad();
        at::Tensor total = at::zeros({}, hidden.options().dtype(at::kFloat));
        at::Tensor hidden_gradient = for_hidden ? at::empty_like(hidden) : at::Tensor(), head_gradient, bias_gradient;
        if (for_bias) bias_gradient = at::zeros(bias.sizes(), bias.options().dtype(at::kFloat));
        for (std::int64_t begin = 0; begin < count; begin += chunk) {
            const std::int64_t n = std::min(chunk, count - begin);
            const at::Tensor rows = hidden.narrow(0, begin, n);
            at::Tensor tanh, logits = head_logits(rows, head, form, &tanh);
            total += losses_of(logits, targets.narrow(0, begin, n), static_cast<float>(scale), for_hidden || for_head || for_bias).sum() * scale;
            if (tanh.defined()) logits.mul_(1 - tanh.square_());
            if (divisor != 1.0) logits.div_(divisor);
            if (for_bias) bias_gradient += logits.sum(0, false, at::kFloat);
            if (for_hidden) {
                at::Tensor out = hidden_gradient.narrow(0, begin, n);
                matrix_product_out(out, logits, head);
            }
            if (for_head) {
                const at::Tensor part = matrix_product(logits.t(), rows);
                // Sums over chunks in f32: in bf16 each addition would round.
                if (!head_gradient.defined())
                    head_gradient = count > n ? part.to(at::kFloat) : part;
                else
                    head_gradient += part;
            }
        }
        if (for_head && count == 0) head_gradient = at::zeros_like(head);
        if (for_head) head_gradient = head_gradient.to(head.scalar_type());
        if (for_bias) bias_gradient = bias_gradient.to(bias.scalar_type());
        context->save_for_backward({hidden_gradient, head_gradient, bias_gradient});
        return total;
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const bool unit = gradients[0].is_cpu() && gradients[0].item<float>() == 1.0f;
        const auto scaled = [&](const at::Tensor& gradient) {
            return !gradient.defined() || unit ? gradient : gradient * gradients[0].to(gradient.scalar_type());
        };
        return {scaled(saved[0]), scaled(saved[1]), {}, scaled(saved[2]), {}, {}, {}, {}};
    }
};

}  // namespace

at::Tensor vocabulary_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double scale, std::int64_t chunk,
                           const HeadForm& form) {
    // An undefined tensor is no argument that autograd takes; nothing is.
    const auto bias = form.bias.defined() ? std::optional(form.bias) : std::nullopt;
    return VocabularyLoss::apply(hidden, head, targets, bias, scale, chunk, form.divisor, form.softcap);
}

at::Tensor token_losses(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, std::int64_t chunk,
                        const HeadForm& form) {
    const at::NoGradGuard guard;
    at::Tensor losses = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat));
    for (std::int64_t begin = 0; begin < hidden.size(0); begin += chunk) {
        const std::int64_t n = std::min(chunk, hidden.size(0) - begin);
        at::Tensor logits = head_logits(hidden.narrow(0, begin, n), head, form);
        losses.narrow(0, begin, n).copy_(losses_of(logits, targets.narrow(0, begin, n), 1.0f, false));
    }
    return losses;
}

}  // namespace mixwright::ops
