// What a model costs to run, from its spec alone.
#pragma once

#include <cstdint>

#include "arch/architecture.h"

namespace mixwright::arch {

struct ComputeCost {
    std::int64_t parameters = 0;
    std::int64_t active_parameters = 0;   // distinct weights a token may pass through: top_k experts in every iteration of a chain
    std::int64_t flops_per_token = 0;     // of the matrix products of a forward pass, attention scores left out
};

ComputeCost compute_cost(const ModelSpec& spec);

}  // namespace mixwright::arch
