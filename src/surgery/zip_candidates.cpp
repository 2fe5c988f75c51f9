#include "surgery/zip_candidates.h"

#include <ATen/ATen.h>

#include <numeric>

#include "ops/product.h"

namespace mixwright::surgery {

merge::NormalEquations Candidates::equations(std::int64_t first, std::int64_t count) const {
    merge::NormalEquations e(activations.size(1), output.size(1));
    e.add(activations.narrow(0, first, count), output.narrow(0, first, count));
    return e;
}

Candidates candidates(const ZipContext& context, std::int64_t expert, const ops::Mlp* foreign) {
    const ops::Mlp& own = context.weights.experts[static_cast<std::size_t>(expert)];
    const calibrate::ExpertTokens reach = context.routed.of(expert);
    const at::Tensor x = context.routed.inputs.index_select(0, reach.tokens), down = own.down.weight.to(at::kFloat);
    const at::Tensor weight = (reach.gates * context.routed.weights.index_select(0, reach.tokens)).unsqueeze(1);
    Candidates result{.activations = expert_activations(own, x) * weight, .down = down, .num_fit = reach.num_fit};
    result.output = ops::linear_product(result.activations, down);
    if (foreign != nullptr) {
        result.activations = at::cat({result.activations, expert_activations(*foreign, x) * weight}, 1);
        result.down = at::constant_pad_nd(down, {0, foreign->gate.weight.size(0)});
    }
    return result;
}

std::vector<std::int64_t> range(std::int64_t first, std::int64_t count) {
    std::vector<std::int64_t> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), first);
    return values;
}

}  // namespace mixwright::surgery
