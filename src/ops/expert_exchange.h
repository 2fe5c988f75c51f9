// Experts of a layer that are divided among processes: tokens travel to their experts, and what the experts say travels back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/router.h"

namespace mixwright::ops {

struct ExpertStack;

/// Moves rows between the processes that share the experts of a layer. All of them call it at the same places.
class RowExchange {
public:
    virtual ~RowExchange() = default;
    virtual std::int64_t size() const = 0;
    /// `rows` [sum of send, W]: the first send[0] rows go to process 0, the next send[1] to process 1, and so on. Returns what the
    /// others sent here, in their order: [sum of receive, W].
    virtual at::Tensor exchange(const at::Tensor& rows, const std::vector<std::int64_t>& send, const std::vector<std::int64_t>& receive) const = 0;
};

/// grouped_experts() where `experts` holds this process's equal share of all experts, in order of the processes, and the routing
/// speaks of all of them. Differentiable; the gradient of an expert counts the tokens of all processes.
at::Tensor exchanged_experts(const at::Tensor& x_ND, const Routing& routing, const ExpertStack& experts, const RowExchange& processes);

}  // namespace mixwright::ops
