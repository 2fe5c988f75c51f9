// Whether the MoE computes what its parts do: with the base model as every expert its logits must be the base's. That
// catches what names and shapes cannot: a rope, norm, bias or window lost on the way into another architecture.
#pragma once

#include "model/weights.h"
#include "surgery/moe_plan.h"

namespace mixwright::surgery {

struct SelfTest {
    double max_difference = 0;  // between the logits of plan and base
    double max_logit = 0;       // largest absolute logit of the base
};

/// Plans the recipe with the base for every expert and runs both in f32, a layer at a time, on `length` tokens.
/// Shared experts and experts carry one half each. Error(failed) when the logits differ by more than rounding does.
SelfTest run_self_test(const BuildRecipe& recipe, const SourceModels& sources, const MoeTarget& target, ExpertLayout layout,
                       at::Device device, std::int64_t length = 24);

}  // namespace mixwright::surgery
