#include "split/student.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "error.h"
#include "merge/neuron_selection.h"
#include "model/decoder.h"
#include "progress.h"

namespace mixwright::split {
namespace {

using model::StreamedBatch;

// What the MLP of a layer sees, and where its tokens go.
class LayerTaps final : public model::Taps {
public:
    void mlp_input(std::int64_t, const at::Tensor& hidden_BLD) override { input = hidden_BLD; }
    void routing(std::int64_t, const ops::Routing& routing) override { routed = routing; }

    at::Tensor input;  // [B, L, D]
    ops::Routing routed;
};

// One batch on its way through both models.
struct Stream {
    at::Tensor student, moe;  // [B, L, D] before the next layer
    model::Step step;
    bool held_out = false;
};

// Expert rows of a layer, one below the other: experts in order, then the shared one.
struct Neurons {
    at::Tensor gate, up;   // [n, D]
    at::Tensor down;       // [D, n]
    at::Tensor expert;     // int64 [n]; num_experts for the shared one
};

// A decoder that has every layer dense, to run attention without the experts.
model::Decoder all_dense(arch::ModelSpec spec) {
    for (arch::LayerSpec& layer : spec.layers) layer.kind = arch::LayerKind::dense;
    return model::Decoder(std::move(spec));
}

// An MLP of one neuron that says nothing.
ops::Mlp silent_mlp(const ops::Mlp& like) {
    ops::Mlp mlp = like;
    for (ops::Linear* linear : {&mlp.gate, &mlp.up}) linear->weight = at::zeros_like(linear->weight.narrow(0, 0, 1));
    mlp.down.weight = at::zeros_like(mlp.down.weight.narrow(1, 0, 1));
    return mlp;
}

Neurons all_neurons(const model::MoeWeights& moe) {
    std::vector<at::Tensor> gate, up, down, expert;
    const auto add = [&](const ops::Mlp& mlp, std::int64_t index) {
        gate.push_back(mlp.gate.weight);
        up.push_back(mlp.up.weight);
        down.push_back(mlp.down.weight);
        expert.push_back(at::full({mlp.gate.weight.size(0)}, index, at::kLong));
    };
    for (std::size_t e = 0; e < moe.experts.size(); ++e) add(moe.experts[e], static_cast<std::int64_t>(e));
    if (moe.shared.down.weight.defined()) add(moe.shared, static_cast<std::int64_t>(moe.experts.size()));
    return {at::cat(gate), at::cat(up), at::cat(down, 1), at::cat(expert)};
}

at::Tensor activations(const Neurons& neurons, const at::Tensor& input_ND, const ops::Mlp& like) {
    return ops::gated_activation(at::linear(input_ND, neurons.gate), at::linear(input_ND, neurons.up), like.activation, like.swiglu_limit);
}

}  // namespace

struct Student::State {
    State(const arch::OpenModel& m, std::vector<StreamedBatch> f, std::vector<StreamedBatch> h, StudentOptions o)
        : moe(m), options(std::move(o)), fit(std::move(f)), held_out(std::move(h)), teacher(m.spec), attention_only(all_dense(m.spec)) {}

    const arch::OpenModel& moe;
    StudentOptions options;
    std::vector<StreamedBatch> fit, held_out;
    model::Decoder teacher, attention_only;
    std::vector<Stream> streams;
    std::int64_t next = 0;  // the first layer not run yet
    MlpTensors last;        // of layer next - 1
    std::vector<StudentLayer> report;

    void begin() {
        streams.clear();
        report.clear();
        next = 0;
        const auto& info = moe.tensors->at("model.embed_tokens.weight");
        model::ModelWeights ends;
        ends.embedding = model::load_tensor(moe, info.name, {model::scalar_type(info.dtype), options.placement.device});
        const auto add = [&](const std::vector<StreamedBatch>& batches, bool is_held_out) {
            for (const StreamedBatch& batch : batches) {
                const at::Tensor hidden = teacher.embed(ends, batch.ids.to(options.placement.device), options.placement.dtype);
                streams.push_back({hidden, hidden, teacher.step(batch.ids.size(1), options.placement.device), is_held_out});
            }
        };
        add(fit, false);
        add(held_out, true);
    }

    void run_layer(std::int64_t layer) {
        model::LayerWeights weights = model::load_layer(moe, layer, options.placement);
        if (moe.spec.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::dense) {
            for (Stream& stream : streams) {
                stream.student = teacher.run_layer(weights, layer, stream.student, stream.step);
                stream.moe = teacher.run_layer(weights, layer, stream.moe, stream.step);
            }
            last = {};
        } else {
            fit_layer(layer, weights);
        }
        model::drop_layer(moe, layer);
        next = layer + 1;
    }

    void fit_layer(std::int64_t layer, model::LayerWeights& weights) {
        if (weights.mlp_output_norm.weight.defined())
            throw Error(ErrorCode::unsupported, fmt::format("{}: a norm stands behind its experts, least squares cannot see through it", moe.spec.architecture->model_type),
                        "use --method concat");
        const double multiplier = moe.spec.residual_multiplier;
        const ops::Mlp& like = weights.moe.experts.at(0);
        weights.mlp = silent_mlp(like);
        // What the student's MLP sees and what it should say; what the experts saw, for ranking their neurons.
        std::vector<at::Tensor> inputs, targets, seen_by_experts;
        std::vector<ops::Routing> routings;
        for (Stream& stream : streams) {
            LayerTaps on_moe, on_student;
            const auto run = [&](const model::Decoder& decoder, const at::Tensor& hidden, LayerTaps& taps) {
                stream.step.taps = &taps;
                const at::Tensor after = decoder.run_layer(weights, layer, hidden, stream.step);
                stream.step.taps = nullptr;
                return after;
            };
            stream.moe = run(teacher, stream.moe, on_moe);
            stream.student = run(attention_only, stream.student, on_student);
            inputs.push_back(rows(on_student.input));
            targets.push_back(rows(stream.moe.to(at::kFloat) - stream.student.to(at::kFloat)) / multiplier);
            seen_by_experts.push_back(rows(on_moe.input));
            routings.push_back(on_moe.routed);
            check_interrupted();
        }

        const Neurons neurons = candidates(weights.moe, seen_by_experts, routings);
        merge::NormalEquations seen(neurons.gate.size(0), moe.spec.hidden_size), unseen(neurons.gate.size(0), moe.spec.hidden_size);
        for (std::size_t b = 0; b < streams.size(); ++b) {
            (streams[b].held_out ? unseen : seen).add(activations(neurons, inputs[b], like), targets[b]);
            check_interrupted();
        }
        const at::Tensor share = mean_weights(weights.moe, seen_by_experts, routings).index_select(0, neurons.expert).unsqueeze(0);
        const merge::RefitNeurons chosen = merge::select_and_refit(seen, unseen, neurons.down.to(at::kCPU, at::kDouble) * share, options.width);

        const at::Tensor kept = at::tensor(chosen.kept, at::kLong);
        Neurons student{neurons.gate.index_select(0, kept), neurons.up.index_select(0, kept), chosen.down.to(at::kFloat)};
        report.push_back({layer, chosen.lambda, chosen.error, chosen.held_out_error,
                          neurons.expert.index_select(0, kept).eq(moe.spec.num_experts).sum().item<std::int64_t>()});
        const at::Tensor down = student.down.to(options.placement.device, options.placement.dtype);
        for (std::size_t b = 0; b < streams.size(); ++b) {
            const at::Tensor y = at::linear(activations(student, inputs[b], like), down).view(streams[b].student.sizes());
            streams[b].student = streams[b].student + (multiplier == 1.0 ? y : y * multiplier);
        }
        last = {student.gate, student.up, student.down};
    }

    at::Tensor rows(const at::Tensor& hidden_BLD) const { return hidden_BLD.reshape({-1, moe.spec.hidden_size}); }

    // f64 [E + 1]: each expert's mean weight over all tokens, and the shared expert's.
    at::Tensor mean_weights(const model::MoeWeights& weights, const std::vector<at::Tensor>& inputs, const std::vector<ops::Routing>& routings) const {
        at::Tensor sum = at::zeros({moe.spec.num_experts + 1}, at::kDouble);
        double tokens = 0;
        for (std::size_t b = 0; b < inputs.size(); ++b) {
            sum.index_add_(0, routings[b].experts.reshape({-1}).to(at::kCPU), routings[b].weights.reshape({-1}).to(at::kCPU, at::kDouble));
            sum[moe.spec.num_experts] += shared_weight(weights, inputs[b]).sum().to(at::kCPU, at::kDouble);
            tokens += static_cast<double>(inputs[b].size(0));
        }
        return sum / tokens;
    }

    // f32 [N]: the weight of the shared expert.
    static at::Tensor shared_weight(const model::MoeWeights& weights, const at::Tensor& input_ND) {
        if (!weights.shared_gate.defined()) return at::ones({input_ND.size(0)}, input_ND.options().dtype(at::kFloat));
        return at::sigmoid(at::linear(input_ND, weights.shared_gate)).squeeze(1).to(at::kFloat);
    }

    // All neurons of the layer, or those that bring the most energy to its output.
    Neurons candidates(const model::MoeWeights& weights, const std::vector<at::Tensor>& inputs, const std::vector<ops::Routing>& routings) const {
        Neurons all = all_neurons(weights);
        const std::int64_t limit = std::max(options.max_candidates, options.width + options.width / 2);
        if (all.gate.size(0) <= limit) return all;
        std::vector<at::Tensor> energies;
        const auto energy_of = [&](const ops::Mlp& mlp, const std::function<std::pair<at::Tensor, at::Tensor>(std::size_t)>& routed) {
            at::Tensor squares = at::zeros({mlp.gate.weight.size(0)}, at::kDouble);
            for (std::size_t b = 0; b < inputs.size(); ++b) {
                const auto [rows, weight] = routed(b);
                if (rows.numel() == 0) continue;
                const Neurons own{mlp.gate.weight, mlp.up.weight};
                const at::Tensor a = activations(own, inputs[b].index_select(0, rows), mlp).to(at::kFloat) * weight.unsqueeze(1);
                squares += a.square().sum(0).to(at::kCPU, at::kDouble);
            }
            energies.push_back(merge::output_energy(squares, mlp.down.weight.to(at::kCPU, at::kDouble)));
            check_interrupted();
        };
        for (std::size_t e = 0; e < weights.experts.size(); ++e)
            energy_of(weights.experts[e], [&](std::size_t b) {
                const at::Tensor hits = routings[b].experts.eq(static_cast<std::int64_t>(e)).nonzero();
                return std::pair(hits.select(1, 0), routings[b].weights.index({hits.select(1, 0), hits.select(1, 1)}).to(at::kFloat));
            });
        if (weights.shared.down.weight.defined())
            energy_of(weights.shared, [&](std::size_t b) {
                return std::pair(at::arange(inputs[b].size(0), at::kLong), shared_weight(weights, inputs[b]));
            });
        const at::Tensor best = at::tensor(merge::largest(at::cat(energies), limit), at::kLong);
        return {all.gate.index_select(0, best), all.up.index_select(0, best), all.down.index_select(1, best), all.expert.index_select(0, best)};
    }
};

Student::Student(const arch::OpenModel& moe, std::vector<StreamedBatch> fit, std::vector<StreamedBatch> held_out, StudentOptions options)
    : state_(std::make_unique<State>(moe, std::move(fit), std::move(held_out), std::move(options))) {}

Student::~Student() = default;

MlpTensors Student::layer(std::int64_t layer) {
    const c10::InferenceMode guard;
    if (state_->streams.empty() || layer < state_->next - 1) state_->begin();
    while (state_->next <= layer) state_->run_layer(state_->next);
    return state_->last;
}

const std::vector<StudentLayer>& Student::report() const noexcept { return state_->report; }

}  // namespace mixwright::split
