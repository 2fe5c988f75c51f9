// The dense model as an output plan: everything around the MLPs copied from the MoE, the MLPs from blocks of neurons.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/writer.h"
#include "split/dense_twin.h"
#include "split/layer_mlps.h"

namespace mixwright::split {

struct SplitPlan {
    DenseTwin twin;
    checkpoint::OutputPlan output;
};

/// `mlps[layer]` for every layer that is MoE in `moe` (others are ignored): at most as wide as `width`; what is missing is
/// filled with neurons that do nothing. `about` is the model card's account of the method.
SplitPlan plan_split(const arch::OpenModel& moe, const std::vector<LayerMlp>& mlps, std::int64_t width, const std::string& name,
                     const std::string& about);

}  // namespace mixwright::split
