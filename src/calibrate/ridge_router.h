// A router fitted in closed form: ridge regression of the experts' domains on the states that the router sees, a layer at
// a time (in the manner of DUME, arXiv 2603.29765). One pass of text through the base model, no gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "arch/canonical.h"
#include "calibrate/domain_tokens.h"

namespace mixwright::calibrate {

struct RidgeLayer {
    at::Tensor rows;             // [E, D] f32: the router
    double lambda = 0;           // relative to the mean eigenvalue of the Gram matrix
    double scale = 1;            // what the regression's rows were multiplied with
    double accuracy = 0;         // share of held-out tokens whose own expert comes first, mean over domains
    double cross_entropy = 0;    // of the held-out tokens' domains under the router's softmax, in nats
};

/// Routers for every layer of `model`, for as many experts as there are domains. lambda is chosen on held-out tokens; so is
/// the scale, by cross-entropy, unless one is given: the softmax is then as sure as it has reason to be.
std::vector<RidgeLayer> fit_ridge_routers(const arch::OpenModel& model, const std::vector<DomainTokens>& domains,
                                          const model::Placement& placement, std::optional<double> scale);

}  // namespace mixwright::calibrate
