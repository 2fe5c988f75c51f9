// Three ways to run some of the experts of a layer on the tokens they were given, without autograd on a CPU; which one is
// fastest depends on how many tokens there are and on the CPU.
//
// Shape legend: N tokens, D hidden size, E experts, F their width.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "ops/mlp.h"
#include "ops/router.h"

namespace mixwright::ops {

/// The N * K assignments sorted by expert: slots [begin[e], begin[e + 1]) are those of expert e, tokens in order.
struct Assignments {
    std::vector<std::int32_t> begin, token;
    std::vector<float> weight;

    std::int32_t count(std::size_t expert) const { return begin[expert + 1] - begin[expert]; }
};

Assignments sort_by_expert(const Routing& routing, std::size_t num_experts);

/// x [N, D] contiguous; `chosen` are the experts to run. Experts as expert_kernels_apply accepts them.
struct ExpertProducts {
    const at::Tensor& x;
    const Assignments& assignments;
    std::span<const Mlp> experts;

    /// Adds weighted outputs to y, f32 [N, D]. For at most max_skinny_rows tokens each: all of `chosen` in one pass over their gates and
    /// ups and one over their downs.
    void run_few(std::span<const std::size_t> chosen, float* y) const;
    /// The same for any number of tokens, through matrix products of libtorch, one expert after another.
    void run_matmul(std::span<const std::size_t> chosen, float* y) const;
    /// y, f32 [N, D] or nothing, plus the weighted outputs, rounded to the dtype of x. For any number of tokens, through kernels/matmul.h:
    /// each thread takes some tokens of an expert through all three products.
    at::Tensor run_panels(std::span<const std::size_t> chosen, const at::Tensor& y) const;
};

}  // namespace mixwright::ops
