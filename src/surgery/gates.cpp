#include "surgery/gates.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "error.h"

namespace mixwright::surgery {
namespace {

std::vector<float> floats(const at::Tensor& tensor) {
    const at::Tensor flat = tensor.to(at::kCPU, at::kFloat).contiguous();
    return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

// Standard normal as mergekit's `random`, or the initialisation of torch.nn.Linear as its `uniform_random`.
std::vector<LayerGates> random_gates(const BuildRecipe& recipe, const arch::ModelSpec& spec, std::uint64_t seed) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    const double bound = 1.0 / std::sqrt(static_cast<double>(spec.hidden_size));
    const auto draw = [&](std::int64_t rows) {
        at::Tensor values = at::empty({rows, spec.hidden_size}, at::kFloat);
        return floats(recipe.gate_mode == GateMode::random ? values.normal_(0, 1, generator)
                                                           : values.uniform_(-bound, bound, generator));
    };
    std::vector<LayerGates> gates;
    for (std::size_t i = 0; i < moe_layers(spec).size(); ++i) {
        LayerGates layer{.experts = draw(spec.num_experts)};
        if (!recipe.shared_experts.empty()) layer.shared = draw(1);
        gates.push_back(std::move(layer));
    }
    return gates;
}

}  // namespace

Gates make_gates(const BuildRecipe& recipe, const SourceModels&, const arch::ModelSpec& spec, const GateOptions& options) {
    Gates gates;
    gates.layers = random_gates(recipe, spec, options.seed);
    const float scale = static_cast<float>(recipe.gate_scale.value_or(1.0));
    for (LayerGates& layer : gates.layers)
        for (float& value : layer.experts) value *= scale;
    return gates;
}

std::vector<double> condition_numbers(const std::vector<LayerGates>& gates, std::int64_t hidden_size) {
    std::vector<double> numbers;
    for (const LayerGates& layer : gates) {
        const auto rows = static_cast<std::int64_t>(layer.experts.size()) / hidden_size;
        const at::Tensor matrix = at::from_blob(const_cast<float*>(layer.experts.data()), {rows, hidden_size}).to(at::kDouble);
        numbers.push_back(at::linalg_cond(matrix).item<double>());
    }
    return numbers;
}

}  // namespace mixwright::surgery
