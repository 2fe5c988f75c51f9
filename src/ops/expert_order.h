// The assignments of tokens to experts, sorted by expert.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace mixwright::ops {

/// A stable counting sort, so that sums over an expert's rows do not depend on anything but the routing.
struct ExpertOrder {
    std::vector<std::int64_t> begin;  // [E + 1]: rows [begin[e], begin[e + 1]) belong to expert e
    std::vector<std::int64_t> item;   // row -> n * K + k
};

/// `expert_of`: the expert of each of the N * K assignments, below num_experts.
ExpertOrder order_by_expert(std::span<const std::int64_t> expert_of, std::size_t num_experts);

/// The values of a contiguous i64 tensor on the CPU.
std::span<const std::int64_t> values_of(const at::Tensor& tensor);

}  // namespace mixwright::ops
