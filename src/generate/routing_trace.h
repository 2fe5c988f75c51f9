// Records which experts every token of a sequence went to.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/architecture.h"
#include "io/json.h"
#include "model/decoder.h"

namespace mixwright::generate {

/// Taps of a single sequence that is fed in order; layers without experts are left out.
class RoutingTrace final : public model::Taps {
public:
    explicit RoutingTrace(const arch::ModelSpec& spec) : layers_(static_cast<std::size_t>(spec.num_layers)) {}

    void routing(std::int64_t layer, const ops::Routing& routing) override;

    /// Tokens that passed all layers.
    std::size_t num_tokens() const;
    /// {"layers": {"0": {"experts": [3, 1], "weights": [0.7, 0.3]}, ...}}; a chained layer has further iterations under
    /// "iterations", in the same form.
    io::Json token(std::size_t position) const;

private:
    struct Choice {
        std::vector<std::int64_t> experts;
        std::vector<float> weights;
    };
    using Choices = std::vector<Choice>;                      // one, or one for each iteration of a chain
    std::vector<std::vector<Choices>> layers_;                // [layer][position]
};

}  // namespace mixwright::generate
