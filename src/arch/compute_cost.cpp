#include "arch/compute_cost.h"

#include <algorithm>

namespace mixwright::arch {

ComputeCost compute_cost(const ModelSpec& spec) {
    ComputeCost cost;
    for (const TensorSlot& slot : tensor_slots(spec)) {
        cost.parameters += slot.elements();

        const bool in_moe = slot.role == TensorRole::expert || slot.role == TensorRole::shared_expert || slot.role == TensorRole::shared_gate;
        const std::int64_t iterations = in_moe ? spec.iterations(slot.layer) : 1;
        cost.active_parameters += active_elements(spec, slot, std::min(spec.top_k * iterations, spec.num_experts));
        // The embedding is looked up; a tied one is multiplied as the head. A router runs once in its own iteration.
        const bool multiplied = slot.shape.size() > 1 && (slot.role != TensorRole::embedding || spec.tied_embeddings);
        const bool shared_router = slot.role == TensorRole::router && router_names(spec, slot.layer).size() == 1;
        const std::int64_t runs = shared_router ? spec.iterations(slot.layer) : iterations;
        if (multiplied) cost.flops_per_token += 2 * active_elements(spec, slot, spec.top_k) * runs;
    }
    return cost;
}

}  // namespace mixwright::arch
