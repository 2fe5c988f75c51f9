#include "ops/router.h"

#include <ATen/ATen.h>

#include <tuple>

namespace mixwright::ops {

Routing route(const at::Tensor& x, const at::Tensor& router, std::int64_t top_k, bool normalize, double scale) {
    Routing routing;
    routing.logits = at::linear(x, router);
    const at::Tensor probabilities = at::softmax(routing.logits, -1, at::kFloat);
    std::tie(routing.weights, routing.experts) = probabilities.topk(top_k, -1);
    if (normalize) routing.weights = routing.weights / routing.weights.sum(-1, true);
    if (scale != 1.0) routing.weights = routing.weights * scale;
    return routing;
}

}  // namespace mixwright::ops
