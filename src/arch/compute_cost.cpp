#include "arch/compute_cost.h"

#include <algorithm>

namespace mixwright::arch {

ComputeCost compute_cost(const ModelSpec& spec) {
    ComputeCost cost;
    for (const TensorSlot& slot : tensor_slots(spec)) {
        std::int64_t elements = 1;
        for (const std::int64_t dim : slot.shape) elements *= dim;
        cost.parameters += elements;

        const bool in_moe = slot.role == TensorRole::expert || slot.role == TensorRole::shared_expert || slot.role == TensorRole::shared_gate;
        const std::int64_t iterations = in_moe ? spec.iterations(slot.layer) : 1;
        const bool is_expert = slot.role == TensorRole::expert;
        if (!is_expert || slot.expert < std::min(spec.top_k * iterations, spec.num_experts)) cost.active_parameters += elements;
        // The embedding is looked up; a tied one is multiplied as the head. A router runs once in its own iteration.
        const bool multiplied = slot.shape.size() > 1 && (slot.role != TensorRole::embedding || spec.tied_embeddings);
        const bool shared_router = slot.role == TensorRole::router && router_names(spec, slot.layer).size() == 1;
        const std::int64_t runs = shared_router ? spec.iterations(slot.layer) : iterations;
        if (multiplied && (!is_expert || slot.expert < spec.top_k)) cost.flops_per_token += 2 * elements * runs;
    }
    return cost;
}

}  // namespace mixwright::arch
