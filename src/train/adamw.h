// AdamW with decoupled weight decay (arXiv 1711.05101) over f32 master weights, with working copies in the compute dtype.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace mixwright::train {

/// A trained tensor: what the graph computes with, and what the optimiser keeps beside it.
struct Parameter {
    std::string name;
    at::Tensor working;         // a leaf that requires grad, f32 or bf16, contiguous
    at::Tensor master;          // f32; `working` itself when that is f32
    at::Tensor mean, variance;  // f32: running averages of the gradient and its square; undefined when no gradient moves it
    bool decays = true;         // whether weight decay applies
    // Of several ranks (ownership.h): whether each has a share of it along dimension 0, and which member of its team owns what is
    // here. Others have no mean and variance, and a master only where that is `working`.
    bool divided = false;
    std::int64_t owner = 0;

    /// Whether the optimiser moves it; correction biases move by a rule of their own.
    bool by_gradient() const { return working.requires_grad(); }
};

/// A parameter with fresh state, starting at the f32 tensor `value`, computing in `dtype`. Norms and biases do not decay.
Parameter make_parameter(std::string name, const at::Tensor& value, at::ScalarType dtype);

struct AdamWOptions {
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01;
    bool together = false;  // all tensors by libtorch's fused step, on the CPU too; elsewhere they always are
};

/// Norm of the gradients in working.grad() of all parameters together; NaN or infinite when one of them is.
double gradient_norm(const std::vector<Parameter>& parameters);

/// One update from working.grad() * gradient_scale, number `step` (1 is the first); parameters without gradient stay as
/// they are. One pass over memory on the CPU: gradient, master, state and working copy together.
void adamw_step(std::vector<Parameter>& parameters, const AdamWOptions& options, double lr, std::int64_t step, double gradient_scale);

}  // namespace mixwright::train
