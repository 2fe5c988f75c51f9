// What a MoE becomes when every one of its MoE layers has a single MLP: the dense architecture that computes the same
// around it, or the nearest form its own architecture has.
#pragma once

#include <cstdint>
#include <string>

#include "arch/architecture.h"

namespace mixwright::split {

struct DenseTwin {
    arch::ModelSpec spec;   // of the dense model
    std::string note;       // why it is not a dense architecture of its own; empty when it is
};

/// The twin of `moe` whose MLPs have `width` neurons (those of layers that were dense already included, which may be
/// narrower). Error(mismatch) when `moe` has no MoE layer, Error(unsupported) when its experts are chained, share rows
/// or there is no form for it.
DenseTwin dense_twin(const arch::ModelSpec& moe, std::int64_t width);

/// The widest MLP among the layers of `moe` that are dense; 0 without any.
std::int64_t widest_dense_layer(const arch::ModelSpec& moe);

}  // namespace mixwright::split
