#include "surgery/chain_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "arch/chained.h"
#include "error.h"

namespace mixwright::surgery {

using arch::TensorSlot;

arch::ModelSpec chained_spec(const arch::ModelSpec& source, const ChainRequest& request) {
    const auto has_chain = [](const arch::LayerSpec& layer) { return layer.chain.has_value(); };
    if (std::ranges::any_of(source.layers, has_chain))
        throw Error(ErrorCode::unsupported, fmt::format("{}: the model is chained already", source.architecture->model_type));
    if (source.architecture->moe && source.architecture->moe->zipped)
        throw Error(ErrorCode::unsupported, fmt::format("{}: a zipped model is not chained", source.architecture->model_type), "chain the model it was made from");
    arch::ModelSpec spec = source;
    spec.architecture = &arch::chained_form_of(*source.architecture);
    if (request.top_k) {
        spec.top_k = *request.top_k;
        if (spec.top_k < 1 || spec.top_k > source.num_experts)
            throw Error(ErrorCode::usage, fmt::format("--top-k: got {}, the model has {} experts", spec.top_k, source.num_experts));
    } else {
        if (source.top_k % request.iterations != 0)
            throw Error(ErrorCode::usage, fmt::format("--iterations: {} experts a token do not divide among {} iterations", source.top_k, request.iterations),
                        "choose a divisor, or say --top-k");
        spec.top_k = source.top_k / request.iterations;
    }
    for (arch::LayerSpec& layer : spec.layers)
        if (layer.kind == arch::LayerKind::moe)
            layer.chain = arch::Chain{.iterations = request.iterations, .on_stream = true, .scale = 1.0 / static_cast<double>(request.iterations),
                                      .independent_gates = !request.shared_gates};
    return spec;
}

std::vector<checkpoint::OutputTensor> chained_tensors(const arch::OpenModel& source, const arch::ModelSpec& chained) {
    std::vector<checkpoint::OutputTensor> tensors;
    for (const TensorSlot& slot : arch::tensor_slots(chained)) {
        std::string from = slot.name;
        if (slot.role == arch::TensorRole::router && source.tensors->find(from) == nullptr) {
            // "mlp.gate.T.weight" is made of "mlp.gate.weight", and so are its companions.
            const auto last = from.rfind('.'), before = from.rfind('.', last - 1);
            from.erase(before, last - before);
        }
        tensors.push_back(checkpoint::copy_tensor(slot.name, source.tensors, source.tensors->at(from)));
    }
    return tensors;
}

}  // namespace mixwright::surgery
