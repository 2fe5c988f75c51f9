// The kernels as operators of PyTorch: torch.ops.mixwright, for programs that load them (cmake/operators.cmake). They compute without
// gradients. Kernels read memory on the word of a shape, so shapes and indices from outside are checked here.
//
// Shape legend: N tokens, D hidden size, K experts a token, E experts, F their width. Weights come plain, in the dtype of x, or as
// `quantize` makes them, with scales (ops/linear.h).
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "kernels/matvec.h"
#include "ops/expert_dispatch.h"
#include "ops/expert_order.h"
#include "ops/linear.h"
#include "ops/quantized_linear.h"

namespace mixwright::ops {
namespace {

using kernels::Format;
using OptionalTensor = std::optional<at::Tensor>;
using Shape = std::vector<std::int64_t>;

void expect(const char* what, const at::Tensor& tensor, at::ScalarType dtype, const Shape& shape) {
    TORCH_CHECK_VALUE(tensor.is_cpu() && tensor.scalar_type() == dtype && tensor.sizes() == at::IntArrayRef(shape), what, ": got ", tensor.scalar_type(), " ",
                      tensor.sizes(), " on ", tensor.device(), ", expected ", dtype, " ", at::IntArrayRef(shape), " on cpu");
}

// A matrix, or a stack of them, that stands for `shape` [..., rows, cols].
Linear weights_of(const char* what, const at::Tensor& weight, const OptionalTensor& scales, at::ScalarType dtype, const Shape& shape) {
    if (!scales) {
        expect(what, weight, dtype, shape);
        return {.weight = weight.contiguous()};
    }
    const bool int8 = weight.scalar_type() == at::kChar;
    Shape values = shape, factors(shape.begin(), shape.end() - 1);
    values.back() = kernels::row_bytes(int8 ? Format::int8 : Format::int4, shape.back());
    if (!int8) factors.insert(factors.end(), {2, kernels::int4_groups(shape.back())});
    expect(what, weight, int8 ? at::kChar : at::kByte, values);
    expect(what, *scales, int8 ? at::kFloat : at::kBFloat16, factors);
    return {.weight = weight.contiguous(), .scales = scales->contiguous()};
}

Linear of_expert(const Linear& stack, std::int64_t expert) {
    return {.weight = stack.weight.select(0, expert), .scales = stack.scales.defined() ? stack.scales.select(0, expert) : at::Tensor()};
}

// Runs `work` as inference, which is what the kernels are for. The caller gets a tensor that autograd may meet later.
template <class Work>
at::Tensor without_gradients(const char* what, std::initializer_list<at::Tensor> inputs, const Work& work) {
    TORCH_CHECK(!at::GradMode::is_enabled() || std::ranges::none_of(inputs, &at::Tensor::requires_grad), what,
                ": an input wants a gradient, which this operator does not compute; call it under torch.no_grad()");
    at::Tensor result;
    {
        const c10::InferenceMode guard;
        result = work();
    }
    return c10::InferenceMode::is_enabled() ? result : result.clone();
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, const OptionalTensor& scales) {
    constexpr auto name = "mixwright::linear";
    TORCH_CHECK_VALUE(x.dim() > 0 && x.size(-1) > 0 && weight.dim() == 2, name, ": got x ", x.sizes(), " and weight ", weight.sizes(),
                      ", expected [..., in] and a matrix");
    Linear map = weights_of("mixwright::linear: weight", weight, scales, x.scalar_type(), {weight.size(0), x.size(-1)});
    if (bias) {
        expect("mixwright::linear: bias", *bias, x.scalar_type(), {weight.size(0)});
        map.bias = bias->contiguous();
    }
    return without_gradients(name, {x, weight, map.bias}, [&] { return map(x); });
}

at::Tensor linear_shape(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor&, const OptionalTensor&) {
    auto shape = x.sym_sizes().vec();
    shape.back() = weight.sym_size(0);
    return x.new_empty_symint(shape);
}

at::Tensor experts(const at::Tensor& x, const at::Tensor& weights, const at::Tensor& chosen, const at::Tensor& gate_up, const at::Tensor& down,
                   const OptionalTensor& gate_up_scales, const OptionalTensor& down_scales) {
    constexpr auto name = "mixwright::experts";
    TORCH_CHECK_VALUE(x.dim() == 2 && x.size(1) > 0 && chosen.dim() == 2 && gate_up.dim() == 3, name, ": got x ", x.sizes(), ", experts ", chosen.sizes(),
                      " and gate_up ", gate_up.sizes(), ", expected [N, D], [N, K] and [E, 2F, D]");
    const std::int64_t N = x.size(0), D = x.size(1), K = chosen.size(1), E = gate_up.size(0), F = gate_up.size(1) / 2;
    expect("mixwright::experts: experts", chosen, at::kLong, {N, K});
    expect("mixwright::experts: weights", weights, weights.scalar_type(), {N, K});
    const Linear gate_ups = weights_of("mixwright::experts: gate_up", gate_up, gate_up_scales, x.scalar_type(), {E, 2 * F, D});
    const Linear downs = weights_of("mixwright::experts: down", down, down_scales, x.scalar_type(), {E, D, F});
    if (chosen.numel() == 0) return at::zeros_like(x);
    return without_gradients(name, {x, weights, gate_up, down}, [&] {
        // Only experts with tokens: making views of hundreds of others would take longer than a token does.
        const auto [used, place] = at::_unique(chosen, /*sorted=*/true, /*return_inverse=*/true);
        const auto numbers = values_of(used);
        TORCH_CHECK_INDEX(numbers.front() >= 0 && numbers.back() < E, name, ": experts: got numbers from ", numbers.front(), " to ", numbers.back(), ", there are ",
                          E, " experts");
        std::vector<Mlp> mlps;
        for (const std::int64_t e : numbers) {
            const Linear both = of_expert(gate_ups, e);
            mlps.push_back({.gate = both.rows(0, F), .up = both.rows(F, F), .down = of_expert(downs, e)});
        }
        return dispatch_to_experts(x, {.weights = weights.to(at::kFloat), .experts = place}, mlps);
    });
}

at::Tensor experts_shape(const at::Tensor& x, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                         const OptionalTensor&) {
    return x.new_empty_symint(x.sym_sizes());
}

std::tuple<at::Tensor, at::Tensor> quantize(const at::Tensor& weight, std::string_view format) {
    TORCH_CHECK_VALUE(format == "int8" || format == "int4", "mixwright::quantize: got format \"", format, "\", expected int8 or int4");
    TORCH_CHECK_VALUE(weight.dim() >= 2 && weight.numel() > 0 && weight.is_floating_point(), "mixwright::quantize: got ", weight.scalar_type(), " ", weight.sizes(),
                      ", expected a matrix of floating-point weights, or a stack of them");
    const at::NoGradGuard guard;
    const Linear result = quantized({.weight = weight.reshape({-1, weight.size(-1)})}, format == "int8" ? Format::int8 : Format::int4);
    Shape values = weight.sizes().vec(), factors(values.begin(), values.end() - 1);
    values.back() = result.weight.size(1);
    factors.insert(factors.end(), result.scales.sizes().begin() + 1, result.scales.sizes().end());
    return {result.weight.view(values), result.scales.view(factors)};
}

TORCH_LIBRARY(mixwright, library) {
    library.def("linear(Tensor x, Tensor weight, Tensor? bias=None, Tensor? scales=None) -> Tensor");
    library.def("experts(Tensor x, Tensor weights, Tensor experts, Tensor gate_up, Tensor down, Tensor? gate_up_scales=None, Tensor? down_scales=None) -> Tensor");
    library.def("quantize(Tensor weight, str format) -> (Tensor values, Tensor scales)");
}

TORCH_LIBRARY_IMPL(mixwright, CPU, library) {
    library.impl("linear", linear);
    library.impl("experts", experts);
    library.impl("quantize", quantize);
}

TORCH_LIBRARY_IMPL(mixwright, Meta, library) {
    library.impl("linear", linear_shape);
    library.impl("experts", experts_shape);
}

}  // namespace
}  // namespace mixwright::ops
