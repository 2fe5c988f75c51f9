#include "ops/vocabulary_head.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "ops/product.h"

namespace mixwright::ops {
namespace {

// `tanh` receives what the gradient of the cap needs.
at::Tensor logits_of(const at::Tensor& hidden, const at::Tensor& head, const HeadForm& form, at::Tensor* tanh) {
    at::Tensor logits = linear_product(hidden, head, form.bias);
    if (form.divisor != 1.0) logits.div_(form.divisor);
    if (form.softcap <= 0) return logits;
    logits.div_(form.softcap).tanh_();
    if (tanh != nullptr) *tanh = logits.clone();
    return logits.mul_(form.softcap);
}

class HeadLoss : public torch::autograd::Function<HeadLoss> {
public:
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden, const at::Tensor& head, const std::optional<at::Tensor>& maybe_bias,
                              double divisor, double softcap, std::int64_t chunk, const RowLosses& losses) {
        const at::Tensor bias = maybe_bias.value_or(at::Tensor());
        const HeadForm form{bias, divisor, softcap};
        const std::int64_t count = hidden.size(0);
        const bool for_hidden = hidden.requires_grad(), for_head = head.requires_grad(), for_bias = bias.defined() && bias.requires_grad();
        at::Tensor total = at::zeros({}, hidden.options().dtype(at::promote_types(hidden.scalar_type(), at::kFloat)));
        at::Tensor hidden_gradient = for_hidden ? at::empty_like(hidden) : at::Tensor(), head_gradient, bias_gradient;
        if (for_bias) bias_gradient = at::zeros(bias.sizes(), bias.options().dtype(at::kFloat));
        for (std::int64_t begin = 0; begin < count; begin += chunk) {
            const std::int64_t n = std::min(chunk, count - begin);
            const at::Tensor rows = hidden.narrow(0, begin, n);
            at::Tensor tanh, logits = logits_of(rows, head, form, &tanh);
            total += losses(logits, begin, for_hidden || for_head || for_bias).sum();
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
                    head_gradient = count > n ? part.to(at::promote_types(part.scalar_type(), at::kFloat)) : part;
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
        return {scaled(saved[0]), scaled(saved[1]), scaled(saved[2]), {}, {}, {}, {}};
    }
};

}  // namespace

at::Tensor head_logits(const at::Tensor& hidden, const at::Tensor& head, const HeadForm& form) { return logits_of(hidden, head, form, nullptr); }

at::Tensor head_loss(const at::Tensor& hidden, const at::Tensor& head, const HeadForm& form, std::int64_t chunk, const RowLosses& losses) {
    // An undefined tensor is no argument that autograd takes; nothing is.
    const auto bias = form.bias.defined() ? std::optional(form.bias) : std::nullopt;
    return HeadLoss::apply(hidden, head, bias, form.divisor, form.softcap, chunk, losses);
}

}  // namespace mixwright::ops
