#include "generate/routing_trace.h"

#include <ATen/ATen.h>

#include <string>

namespace mixwright::generate {

void RoutingTrace::routing(std::int64_t layer, const ops::Routing& routing) {
    const at::Tensor experts = routing.experts.to(at::kCPU).contiguous(), weights = routing.weights.to(at::kCPU, at::kFloat).contiguous();
    const std::int64_t top_k = experts.size(1);
    auto& positions = layers_[static_cast<std::size_t>(layer)];
    for (std::int64_t n = 0; n < experts.size(0); ++n) {
        const auto* e = experts.const_data_ptr<std::int64_t>() + n * top_k;
        const auto* w = weights.const_data_ptr<float>() + n * top_k;
        if (routing.iteration == 0) positions.emplace_back();
        positions[positions.size() - (routing.iteration == 0 ? 1 : static_cast<std::size_t>(experts.size(0) - n))].push_back({{e, e + top_k}, {w, w + top_k}});
    }
}

std::size_t RoutingTrace::num_tokens() const {
    for (const auto& layer : layers_)
        if (!layer.empty()) return layer.size();
    return 0;
}

io::Json RoutingTrace::token(std::size_t position) const {
    io::Json layers = io::Json::object();
    for (std::size_t layer = 0; layer < layers_.size(); ++layer)
        if (position < layers_[layer].size()) {
            const auto json = [](const Choice& choice) { return io::Json{{"experts", choice.experts}, {"weights", choice.weights}}; };
            const Choices& choices = layers_[layer][position];
            io::Json& entry = layers[std::to_string(layer)] = json(choices.front());
            for (std::size_t t = 1; t < choices.size(); ++t) entry["iterations"].push_back(json(choices[t]));
        }
    return {{"layers", std::move(layers)}};
}

}  // namespace mixwright::generate
