#include "train/forward.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>

namespace mixwright::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LayerOutput {
    at::Tensor hidden, auxiliary;
    std::vector<RouterLoad> loads;
};

using RunLayer = std::function<LayerOutput(const at::Tensor& hidden)>;

struct Replay : torch::CustomClassHolder {
    RunLayer run;
};

// A layer whose inside is forgotten and run again in the backward pass (arXiv 1604.06174). The weights get their gradients in
// that second run, directly; the function itself passes on only that of its input.
class Recomputed : public torch::autograd::Function<Recomputed> {
public:
    static variable_list forward(AutogradContext* context, const at::Tensor& hidden, const c10::intrusive_ptr<Replay>& replay, std::vector<RouterLoad>* loads) {
        context->save_for_backward({hidden});
        context->saved_data["replay"] = c10::IValue::make_capsule(replay);
        LayerOutput out = replay->run(hidden);
        *loads = std::move(out.loads);
        return {out.hidden, out.auxiliary.defined() ? out.auxiliary : at::zeros({}, hidden.options().dtype(at::kFloat))};
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const at::Tensor hidden = context->get_saved_variables()[0].detach().requires_grad_(true);
        const auto replay = c10::static_intrusive_pointer_cast<Replay>(context->saved_data["replay"].toCapsule());
        LayerOutput out;
        {
            const at::AutoGradMode enabled(true);
            out = replay->run(hidden);
        }
        variable_list roots{out.hidden}, root_gradients{gradients[0]};
        if (out.auxiliary.defined() && out.auxiliary.requires_grad()) {
            roots.push_back(out.auxiliary);
            root_gradients.push_back(gradients[1]);
        }
        torch::autograd::backward(roots, root_gradients);
        return {hidden.grad(), {}, {}};
    }
};

}  // namespace

ForwardResult forward(const model::Decoder& decoder, const model::ModelWeights& weights, const at::Tensor& ids, const ForwardOptions& options) {
    static const distributed::Team alone;
    const distributed::Team& everyone = options.everyone != nullptr ? *options.everyone : alone;
    const std::int64_t batch = ids.size(0);
    const model::Step step = decoder.step(ids.size(1), ids.device());
    ForwardResult result{.hidden = decoder.embed(weights, ids)};
    for (std::int64_t layer = 0; layer < decoder.spec().num_layers; ++layer) {
        const RunLayer run = [&decoder, &weights, &options, &everyone, step, layer, batch](const at::Tensor& hidden) {
            AuxiliaryLoss auxiliary(options.auxiliary, batch, decoder.spec(), everyone);
            model::Step own = step;
            own.taps = &auxiliary;
            const at::Tensor out = decoder.run_layer(weights.layers[static_cast<std::size_t>(layer)], layer, hidden, own);
            return LayerOutput{out, auxiliary.total(), std::move(auxiliary.loads())};
        };
        LayerOutput out;
        if (options.checkpointing && at::GradMode::is_enabled()) {
            auto replay = c10::make_intrusive<Replay>();
            replay->run = run;
            // Without a gradient of its own the first layer's input would leave the function out of the graph.
            if (!result.hidden.requires_grad()) result.hidden = result.hidden.detach().requires_grad_(true);
            const variable_list both = Recomputed::apply(result.hidden, replay, &out.loads);
            out.hidden = both[0];
            out.auxiliary = both[1];
        } else {
            out = run(result.hidden);
        }
        result.hidden = out.hidden;
        if (options.keep_streams) result.streams.push_back(out.hidden);
        if (out.auxiliary.defined()) result.auxiliary = result.auxiliary.defined() ? result.auxiliary + out.auxiliary : out.auxiliary;
        for (RouterLoad& load : out.loads) result.loads.push_back(std::move(load));
    }
    result.hidden = decoder.final_norm(weights, result.hidden);
    return result;
}

}  // namespace mixwright::train
