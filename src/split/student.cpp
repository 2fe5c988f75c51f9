#include "split/student.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "error.h"
#include "merge/neuron_selection.h"
#include "merge/row_ridge.h"
#include "model/decoder.h"
#include "ops/product.h"
#include "progress.h"
#include "split/expert_neurons.h"

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
    at::Tensor student, moe;   // [B, L, D] before the next layer
    at::Tensor importance;     // f32 [B L], or undefined
    model::Step step;
    bool held_out = false;
};

// What a layer's MLP is fitted to: its input and the output that is wanted, by batch.
struct Task {
    std::vector<at::Tensor> inputs, targets;  // [N, D]
};

// The fitted map: which of the candidates, and how they are joined.
struct Fit {
    at::Tensor kept;           // int64
    at::Tensor down;           // [D, kept] f64
    double lambda = 0, error = 0, held_out_error = 0;
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
    for (ops::Linear* linear : {&mlp.gate, &mlp.up, &mlp.down}) linear->bias = at::Tensor();
    return mlp;
}

// Rows of a least-squares problem, each counting as much as its token.
merge::Rows weighed(at::Tensor a, at::Tensor y, const at::Tensor& importance) {
    if (!importance.defined()) return {std::move(a), std::move(y)};
    const at::Tensor root = importance.sqrt().unsqueeze(1);
    return {a.to(at::kFloat) * root, y * root};
}

}  // namespace

struct Student::State {
    State(const arch::OpenModel& m, StudentText t, StudentOptions o)
        : moe(m), options(std::move(o)), text(std::move(t)), teacher(m.spec), attention_only(all_dense(m.spec)) {
        for (std::int64_t layer = 0; layer < m.spec.num_layers; ++layer)
            if (m.spec.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::moe) last_fitted = layer;
    }

    const arch::OpenModel& moe;
    StudentOptions options;
    StudentText text;
    model::Decoder teacher, attention_only;
    std::vector<Stream> streams;
    std::int64_t last_fitted = -1;
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
        const auto add = [&](const std::vector<StreamedBatch>& batches, const std::vector<at::Tensor>& importance, bool is_held_out) {
            for (std::size_t b = 0; b < batches.size(); ++b) {
                const at::Tensor hidden = teacher.embed(ends, batches[b].ids.to(options.placement.device), options.placement.dtype);
                streams.push_back({hidden, hidden, importance.empty() ? at::Tensor() : importance[b].to(options.placement.device),
                                   teacher.step(batches[b].ids.size(1), options.placement.device), is_held_out});
            }
        };
        add(text.fit, text.fit_weights, false);
        add(text.held_out, text.held_out_weights, true);
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
        if (layer == last_fitted) streams.clear();  // other students come after this one
    }

    void fit_layer(std::int64_t layer, model::LayerWeights& weights) {
        if (weights.mlp_output_norm.weight.defined())
            throw Error(ErrorCode::unsupported, fmt::format("{}: a norm stands behind its experts, least squares cannot see through it", moe.spec.architecture->model_type),
                        "use --method concat");
        const double multiplier = moe.spec.residual_multiplier;
        const ops::Mlp& like = weights.moe.experts.at(0);
        weights.mlp = silent_mlp(like);
        Task task;
        std::vector<SeenBatch> seen;
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
            task.inputs.push_back(rows(on_student.input));
            task.targets.push_back(rows(stream.moe.to(at::kFloat) - stream.student.to(at::kFloat)) / multiplier);
            seen.push_back({rows(on_moe.input), on_moe.routed, stream.importance});
            check_interrupted();
        }
        const at::Tensor share = mean_weights(weights.moe, seen);
        at::Tensor bias = mean_bias(weights.moe, share);
        if (bias.defined())
            for (at::Tensor& target : task.targets) target = target - bias;

        const bool greedy = options.width <= options.widest_greedy;
        const std::int64_t limit = greedy ? std::max(options.max_candidates, options.width + options.width / 2) : options.width;
        const Neurons candidates = candidate_neurons(weights.moe, seen, limit);
        seen.clear();
        const at::Tensor prior = candidates.down.to(at::kCPU, at::kDouble) * share.index_select(0, candidates.expert.to(at::kCPU)).unsqueeze(0);
        const Fit fit = greedy ? choose_and_fit(candidates, task, prior, like) : fit_by_rows(candidates, task, prior, like);
        const Neurons kept = candidates.of(fit.kept.to(candidates.gate.device()));
        report.push_back({layer, fit.lambda, fit.error, fit.held_out_error, kept.expert.eq(moe.spec.num_experts).sum().item<std::int64_t>()});

        const at::Tensor down = fit.down.to(options.placement.device, options.placement.dtype);
        std::vector<at::Tensor> outputs;
        for (std::size_t b = 0; b < streams.size(); ++b) outputs.push_back(ops::linear_product(kept.activations(task.inputs[b], like), down));
        if (bias.defined()) bias = bias + mean_residual(outputs, task);
        for (std::size_t b = 0; b < streams.size(); ++b) {
            const at::Tensor y = bias.defined() ? outputs[b] + bias.to(outputs[b].options()) : outputs[b];
            streams[b].student = streams[b].student + (multiplier == 1.0 ? y : y * multiplier).view(streams[b].student.sizes());
        }
        last = {.gate = kept.gate, .up = kept.up, .down = fit.down.to(at::kFloat), .gate_bias = kept.gate_bias, .up_bias = kept.up_bias, .down_bias = bias};
    }

    // Which rows to take so that they are at most `most`: one of how many.
    static std::int64_t thinning(const Task& task, std::int64_t most) {
        std::int64_t total = 0;
        for (const at::Tensor& input : task.inputs) total += input.size(0);
        return std::max<std::int64_t>(1, (total + most - 1) / most);
    }

    merge::Rows thinned_rows(const Neurons& neurons, const Task& task, std::size_t batch, const ops::Mlp& like, std::int64_t every) const {
        const auto thinned = [every](const at::Tensor& tensor) { return tensor.defined() ? tensor.slice(0, 0, std::nullopt, every) : tensor; };
        return weighed(neurons.activations(thinned(task.inputs[batch]), like), thinned(task.targets[batch]), thinned(streams[batch].importance));
    }

    struct Equations {
        merge::NormalEquations fit, held_out;
    };

    // Of all rows: what is fitted and what is held out.
    Equations equations(const Neurons& neurons, const Task& task, const ops::Mlp& like) const {
        const std::int64_t size = neurons.gate.size(0);
        Equations sums{merge::NormalEquations(size, moe.spec.hidden_size), merge::NormalEquations(size, moe.spec.hidden_size)};
        for (std::size_t b = 0; b < streams.size(); ++b) add_rows(streams[b].held_out ? sums.held_out : sums.fit, neurons, task, b, like, 1);
        return sums;
    }

    // Of every `every`-th row, whichever it is for.
    merge::NormalEquations thinned_equations(const Neurons& neurons, const Task& task, const ops::Mlp& like, std::int64_t every) const {
        merge::NormalEquations sum(neurons.gate.size(0), moe.spec.hidden_size);
        for (std::size_t b = 0; b < streams.size(); ++b) add_rows(sum, neurons, task, b, like, every);
        return sum;
    }

    void add_rows(merge::NormalEquations& sum, const Neurons& neurons, const Task& task, std::size_t batch, const ops::Mlp& like, std::int64_t every) const {
        const merge::Rows rows = thinned_rows(neurons, task, batch, like, every);
        sum.add(rows.a, rows.y);
        check_interrupted();
    }

    // Many candidates are chosen by fewer tokens; the chosen ones are fitted to all.
    Fit choose_and_fit(const Neurons& candidates, const Task& task, const at::Tensor& prior, const ops::Mlp& like) const {
        const double size = static_cast<double>(candidates.gate.size(0)), widest = static_cast<double>(options.max_candidates);
        const auto affordable = static_cast<std::int64_t>(static_cast<double>(options.most_rows) * std::max(1.0, widest * widest / (size * size)));
        const std::int64_t every = thinning(task, affordable);
        const at::Tensor prior_nD = prior.t();
        // Added, however many: the inverse that removing them begins with costs more than the steps it saves, and chooses no better.
        const auto choose = [&](merge::NormalEquations all) {
            return merge::select_neurons(std::move(all).pulled_to(prior_nD, merge::selection_ridge), options.width, merge::Greedy::forward).kept;
        };
        std::vector<std::int64_t> kept;
        std::optional<Equations> parts;
        if (every == 1) {
            parts = equations(candidates, task, like);
            merge::NormalEquations both = parts->fit;
            both.add(parts->held_out);
            kept = choose(std::move(both));
            parts = Equations{parts->fit.of(kept), parts->held_out.of(kept)};
        } else {
            kept = choose(thinned_equations(candidates, task, like, every));
            parts = equations(candidates.of(at::tensor(kept, candidates.gate.options().dtype(at::kLong))), task, like);
        }
        const at::Tensor index = at::tensor(kept, at::kLong);
        const merge::RidgeFit ridge = merge::fit_ridge(parts->fit, parts->held_out, prior_nD.index_select(0, index), merge::HeldOut::join, {.near = last_lambda()});
        return {index, ridge.solution.t().contiguous(), ridge.lambda, ridge.error, ridge.held_out_error};
    }

    // Layers want much the same pull: that of the one below is tried first.
    double last_lambda() const { return report.empty() || !std::isfinite(report.back().lambda) ? 0 : report.back().lambda; }

    // All candidates are kept: only the map is fitted.
    Fit fit_by_rows(const Neurons& candidates, const Task& task, const at::Tensor& prior, const ops::Mlp& like) const {
        const std::int64_t every = thinning(task, options.most_rows);
        std::vector<at::Tensor> a[2], y[2];
        for (std::size_t b = 0; b < streams.size(); ++b) {
            const merge::Rows rows = thinned_rows(candidates, task, b, like, every);
            a[streams[b].held_out].push_back(rows.a.to(at::kCPU, at::kFloat));
            y[streams[b].held_out].push_back(rows.y.to(at::kCPU));
            check_interrupted();
        }
        const auto joined = [](std::vector<at::Tensor>& parts) {
            const at::Tensor all = at::cat(parts);
            parts.clear();
            return all;
        };
        const merge::Rows seen{joined(a[0]), joined(y[0])}, unseen{joined(a[1]), joined(y[1])};
        const merge::RidgeFit fit = merge::fit_ridge_by_rows(seen, unseen, prior.t(), last_lambda());
        return {at::arange(candidates.gate.size(0), at::kLong), fit.solution.t().contiguous(), fit.lambda, fit.error, fit.held_out_error};
    }

    // f32 [D]: the biases of the experts' down projections by their weights; undefined without.
    static at::Tensor mean_bias(const model::MoeWeights& weights, const at::Tensor& share) {
        if (!weights.experts.at(0).down.bias.defined()) return {};
        at::Tensor sum = at::zeros_like(weights.experts[0].down.bias, at::kFloat);
        for (std::size_t e = 0; e < weights.experts.size(); ++e) sum.add_(weights.experts[e].down.bias.to(at::kFloat), share[static_cast<std::int64_t>(e)].item<double>());
        return sum;
    }

    // f32 [D]: what the outputs miss in the mean.
    at::Tensor mean_residual(const std::vector<at::Tensor>& outputs, const Task& task) const {
        at::Tensor sum = at::zeros({moe.spec.hidden_size}, task.targets.at(0).options());
        double tokens = 0;
        for (std::size_t b = 0; b < outputs.size(); ++b) {
            sum += (task.targets[b] - outputs[b].to(at::kFloat)).sum(0);
            tokens += static_cast<double>(outputs[b].size(0));
        }
        return sum / tokens;
    }

    at::Tensor rows(const at::Tensor& hidden_BLD) const { return hidden_BLD.reshape({-1, moe.spec.hidden_size}); }
};

Student::Student(const arch::OpenModel& moe, StudentText text, StudentOptions options)
    : state_(std::make_unique<State>(moe, std::move(text), std::move(options))) {}

Student::~Student() = default;

MlpTensors Student::layer(std::int64_t layer) {
    const c10::InferenceMode guard;
    if (state_->next == 0 || layer < state_->next - 1) state_->begin();
    while (state_->next <= layer) state_->run_layer(state_->next);
    return state_->last;
}

const std::vector<StudentLayer>& Student::report() const noexcept { return state_->report; }

}  // namespace mixwright::split
