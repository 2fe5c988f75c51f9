// A plan as a model that can be opened before it is written: tensors are made from their sources when they are asked for.
#pragma once

#include <memory>

#include "arch/canonical.h"
#include "checkpoint/writer.h"

namespace mixwright::surgery {

/// The model that `plan` describes. Noise is left out, and tensors with content of their own must have it.
arch::OpenModel open_plan(const checkpoint::OutputPlan& plan, std::string name);

}  // namespace mixwright::surgery
