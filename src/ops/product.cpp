#include "ops/product.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "ops/kernel_use.h"

namespace mixwright::ops {
namespace {

bool to_be_widened(const at::Tensor& x) { return x.is_cpu() && !has_fast_products(x.scalar_type()); }

class WidenedLinear : public torch::autograd::Function<WidenedLinear> {
public:
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
        context->save_for_backward({x, weight});
        context->saved_data["biased"] = bias.has_value();  // without one there is no third input to ask about
        const std::optional<at::Tensor> wide_bias = bias ? std::optional(bias->to(at::kFloat)) : std::nullopt;
        return at::linear(x.to(at::kFloat), weight.to(at::kFloat), wide_bias).to(x.scalar_type());
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const at::Tensor &x = saved[0], &weight = saved[1];
        const at::Tensor gradient = gradients[0].to(at::kFloat).flatten(0, -2);
        at::Tensor d_x, d_weight, d_bias;
        if (context->needs_input_grad(0)) d_x = at::mm(gradient, weight.to(at::kFloat)).to(x.scalar_type()).view(x.sizes());
        if (context->needs_input_grad(1)) d_weight = at::mm(gradient.t(), x.to(at::kFloat).flatten(0, -2)).to(weight.scalar_type());
        if (context->saved_data["biased"].toBool() && context->needs_input_grad(2)) d_bias = gradient.sum(0).to(x.scalar_type());
        return {d_x, d_weight, d_bias};
    }
};

}  // namespace

at::Tensor linear_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    const std::optional<at::Tensor> given = bias.defined() ? std::optional(bias) : std::nullopt;
    return to_be_widened(x) ? WidenedLinear::apply(x, weight, given) : at::linear(x, weight, given);
}

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {
    return to_be_widened(a) ? at::mm(a.to(at::kFloat), b.to(at::kFloat)).to(a.scalar_type()) : at::mm(a, b);
}

void matrix_product_out(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
    if (to_be_widened(a))
        out.copy_(at::mm(a.to(at::kFloat), b.to(at::kFloat)));
    else
        at::mm_out(out, a, b);
}

}  // namespace mixwright::ops
