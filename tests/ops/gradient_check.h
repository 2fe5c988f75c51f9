// Gradients against central finite differences in f64.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace mixwright::ops {

/// Checks d(sum of f(inputs) * a fixed random direction) / d(every element of every input); inputs are f64.
inline void expect_gradients_match(std::vector<at::Tensor> inputs, const std::function<at::Tensor(const std::vector<at::Tensor>&)>& f,
                                   double step = 1e-6, double tolerance = 1e-6) {
    for (at::Tensor& input : inputs) input = input.detach().clone().requires_grad_(true);
    const at::Tensor y = f(inputs);
    const at::Tensor direction = at::randn(y.sizes(), y.options().requires_grad(false));
    (y * direction).sum().backward();
    const auto value = [&] {
        const at::NoGradGuard guard;
        return (f(inputs) * direction).sum().item<double>();
    };
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        ASSERT_TRUE(inputs[i].grad().defined()) << "input " << i << " has no gradient";
        const at::Tensor gradient = inputs[i].grad().contiguous();
        ASSERT_TRUE(inputs[i].is_contiguous());
        auto* element = inputs[i].mutable_data_ptr<double>();
        for (std::int64_t j = 0; j < inputs[i].numel(); ++j) {
            const double before = element[j];
            element[j] = before + step;
            const double above = value();
            element[j] = before - step;
            const double below = value();
            element[j] = before;
            const double expected = (above - below) / (2 * step), got = gradient.const_data_ptr<double>()[j];
            EXPECT_NEAR(got, expected, tolerance * (1 + std::abs(expected))) << "input " << i << ", element " << j;
        }
    }
}

}  // namespace mixwright::ops
