// A mixture of experts whose layers run their experts several times: the spec and the weights of the chained model, made of
// those of a plain one.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "arch/canonical.h"
#include "checkpoint/writer.h"

namespace mixwright::surgery {

struct ChainRequest {
    std::int64_t iterations = 2;
    std::optional<std::int64_t> top_k;   // of an iteration; default: the source's divided by the iterations
    bool shared_gates = false;           // one router for all iterations
};

/// The chained form of `source`: on the kept stream, each increment scaled by 1 / iterations, so that as much is added in all
/// as the source adds at once. Error(unsupported) when the source has no experts or is chained already, Error(usage) when the
/// experts of a token do not divide among the iterations.
arch::ModelSpec chained_spec(const arch::ModelSpec& source, const ChainRequest& request);

/// Every weight of `chained`, out of `source`: the routers of all iterations start as the source's.
std::vector<checkpoint::OutputTensor> chained_tensors(const arch::OpenModel& source, const arch::ModelSpec& chained);

}  // namespace mixwright::surgery
