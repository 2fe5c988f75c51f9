// Whether the weights that go into an output are numbers.
#pragma once

#include "checkpoint/writer.h"

namespace mixwright::surgery {

/// Reads every source tensor of the plan once. Error(malformed) names the tensors that hold NaN or infinity, with their files.
void verify_finite(const checkpoint::OutputPlan& plan);

}  // namespace mixwright::surgery
