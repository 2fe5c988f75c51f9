#include "ops/product.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "ops/gemm.h"
#include "ops/kernel_use.h"

namespace mixwright::ops {
namespace {

// What libtorch would multiply slowly; and f32 in training, whose products are of a size at which libtorch spends a sixth of the
// time on getting ready. All passes of training do the same, with and without gradients: their sums must agree to the last bit.
bool by_own_gemm(const at::Tensor& x) { return gemm_applies(x) && (!has_fast_products(x.scalar_type()) || !c10::InferenceMode::is_enabled()); }

// Our products read factors whose rows or columns lie in one piece.
at::Tensor in_pieces(const at::Tensor& matrix) { return matrix.stride(0) == 1 || matrix.stride(1) == 1 ? matrix : matrix.contiguous(); }

void gemm_product_out(const at::Tensor& out, const at::Tensor& left, const at::Tensor& right) {
    const at::Tensor a = in_pieces(left), b = in_pieces(right);
    const GemmCall call{factor_of(a), factor_of(b), a.size(0), a.size(1), b.size(1), product_of(out)};
    run_gemms({&call, 1});
}

at::Tensor gemm_product(const at::Tensor& a, const at::Tensor& b, at::ScalarType result) {
    at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options().dtype(result));
    gemm_product_out(out, a, b);
    return out;
}

class GemmLinear : public torch::autograd::Function<GemmLinear> {
public:
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
        context->save_for_backward({x, weight});
        context->saved_data["biased"] = bias.has_value();  // without one there is no third input to ask about
        std::vector<std::int64_t> shape = x.sizes().vec();
        shape.back() = weight.size(0);
        const at::Tensor rows = x.reshape({-1, x.size(-1)}).contiguous();
        // Rounded once: a bias is added to sums that are still wide.
        const at::Tensor y = gemm_product(rows, weight.t(), bias ? at::kFloat : x.scalar_type());
        return (bias ? (y + bias->to(at::kFloat)).to(x.scalar_type()) : y).view(shape);
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const at::Tensor &x = saved[0], &weight = saved[1];
        const at::Tensor gradient = gradients[0].reshape({-1, weight.size(0)}).contiguous();
        at::Tensor d_x, d_weight, d_bias;
        if (context->needs_input_grad(0)) d_x = gemm_product(gradient, weight, x.scalar_type()).view(x.sizes());
        if (context->needs_input_grad(1)) d_weight = gemm_product(gradient.t(), x.reshape({-1, x.size(-1)}).contiguous(), weight.scalar_type());
        if (context->saved_data["biased"].toBool() && context->needs_input_grad(2)) d_bias = gradient.sum(0, false, at::kFloat).to(x.scalar_type());
        return {d_x, d_weight, d_bias};
    }
};

}  // namespace

at::Tensor linear_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    const std::optional<at::Tensor> given = bias.defined() ? std::optional(bias) : std::nullopt;
    return by_own_gemm(x) ? GemmLinear::apply(x, weight, given) : at::linear(x, weight, given);
}

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {
    return by_own_gemm(a) ? gemm_product(a, b, a.scalar_type()) : at::mm(a, b);
}

void matrix_product_out(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
    if (by_own_gemm(a))
        gemm_product_out(out, a, b);
    else
        at::mm_out(out, a, b);
}

}  // namespace mixwright::ops
