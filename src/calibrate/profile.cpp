#include "calibrate/profile.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>

#include "calibrate/routed_layer.h"
#include "error.h"
#include "merge/neuron_selection.h"
#include "progress.h"

namespace mixwright::calibrate {
namespace {

constexpr std::int64_t sample_tokens = 512;  // for what looks at every expert on the same tokens

class Profiler {
public:
    Profiler(const arch::OpenModel& model, std::vector<ProfiledText>& texts, const model::Placement& placement)
        : model_(model), spec_(model.spec), placement_(placement), decoder_(model.spec), texts_(texts) {
        model::ModelWeights ends;
        const auto& embedding = model.tensors->at("model.embed_tokens.weight");
        ends.embedding = model::load_tensor(model, embedding.name, {model::scalar_type(embedding.dtype), placement.device});
        for (ProfiledText& text : texts_) {
            streams_.emplace_back();
            for (const model::StreamedBatch& batch : text.batches)
                streams_.back().push_back(decoder_.embed(ends, batch.ids.to(placement.device), placement.dtype));
            text.batches.clear();
        }
    }

    std::vector<LayerProfile> run() {
        std::vector<LayerProfile> profiles;
        Progress progress("running layers", static_cast<std::uint64_t>(spec_.num_layers), "layers");
        for (std::int64_t layer = 0; layer < spec_.num_layers; ++layer) {
            const model::LayerWeights weights = model::load_layer(model_, layer, placement_);
            const bool moe = spec_.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::moe;
            const std::vector<std::vector<RoutedLayer>> routed = pass(weights, layer, moe);
            for (std::size_t t = 0; t < routed.size(); ++t) {
                profiles.push_back(measure(weights.moe, layer, routed[t]));
                if (spec_.layers[static_cast<std::size_t>(layer)].chain) profiles.back().iteration = static_cast<std::int64_t>(t);
            }
            model::drop_layer(model_, layer);
            progress.advance();
        }
        return profiles;
    }

private:
    // [iteration][file]
    std::vector<std::vector<RoutedLayer>> pass(const model::LayerWeights& weights, std::int64_t layer, bool moe) {
        std::vector<std::vector<RoutedLayer>> routed(moe ? static_cast<std::size_t>(spec_.iterations(layer)) : 0);
        for (auto& stream : streams_) {
            RoutedLayerTaps taps;
            for (at::Tensor& hidden : stream) {
                hidden = decoder_.run_layer(weights, layer, hidden, decoder_.step(hidden.size(1), placement_.device, nullptr, moe ? &taps : nullptr));
                if (moe) taps.layer_output(hidden);
                check_interrupted();
            }
            if (!moe) continue;
            std::vector<RoutedLayer> iterations = taps.take_iterations(0);
            for (std::size_t t = 0; t < iterations.size(); ++t) routed[t].push_back(std::move(iterations[t]));
        }
        return routed;
    }

    LayerProfile measure(const model::MoeWeights& moe, std::int64_t layer, const std::vector<RoutedLayer>& routed) const {
        const auto files = static_cast<std::int64_t>(routed.size()), experts = spec_.num_experts;
        LayerProfile profile{.layer = layer,
                             .counts = at::zeros({files, experts}, at::kLong),
                             .gate_mass = at::zeros({files, experts}, at::kDouble),
                             .output_norm = at::zeros({files, experts}, at::kDouble),
                             .gate_moments = at::zeros({experts, experts}, at::kDouble),
                             .coactivation = at::zeros({files, experts, experts}, at::kLong),
                             .entropy = at::zeros({files}, at::kDouble),
                             .neuron_energy = at::zeros({experts, spec_.expert_width}, at::kFloat)};
        for (std::int64_t s = 0; s < files; ++s) {
            const RoutedLayer& r = routed[static_cast<std::size_t>(s)];
            const at::Tensor chosen = at::one_hot(r.experts, experts).to(at::kFloat);           // [N, K, E]
            const at::Tensor hot = chosen.sum(1), gates = (chosen * r.gates.unsqueeze(2)).sum(1);  // [N, E]
            profile.counts[s] = hot.sum(0).to(at::kLong);
            profile.gate_mass[s] = gates.sum(0, false, at::kDouble);
            profile.gate_moments.add_(at::mm(gates.t(), gates).to(at::kCPU, at::kDouble));
            profile.coactivation[s] = at::mm(hot.t(), hot).round().to(at::kCPU, at::kLong);
            const at::Tensor log_p = at::log_softmax(r.logits.to(at::kFloat), -1);
            profile.entropy[s] = -(log_p.exp() * log_p).sum(-1).mean().item<double>();
            const auto shown = std::min(std::ssize(texts_[static_cast<std::size_t>(s)].sample), static_cast<std::ptrdiff_t>(r.experts.size(0)));
            profile.sample.push_back(r.experts.narrow(0, 0, shown).to(at::kCPU));
        }
        look_at_experts(moe, routed, profile);
        redundancy(moe, profile);
        group(routed, profile);
        return profile;
    }

    // In how many groups a token's experts lie, for several ways to group them.
    void group(const std::vector<RoutedLayer>& routed, LayerProfile& profile) const {
        const std::int64_t experts = spec_.num_experts;
        const auto add = [&](const char* by, std::int64_t size, const merge::Groups& groups) {
            at::Tensor group_of = at::zeros({experts}, at::kLong);
            for (std::size_t g = 0; g < groups.size(); ++g)
                for (const std::int64_t e : groups[g]) group_of[e] = static_cast<std::int64_t>(g);
            double touched = 0, chosen = 0;
            for (const RoutedLayer& r : routed) {
                const at::Tensor groups_NK = group_of.index_select(0, r.experts.to(at::kCPU).flatten()).view(r.experts.sizes());
                touched += at::zeros({groups_NK.size(0), std::ssize(groups)}, at::kFloat).scatter_(1, groups_NK, 1.0f).sum(at::kDouble).item<double>();
                chosen += static_cast<double>(r.experts.numel());
            }
            profile.groupings.push_back({by, size, chosen > 0 ? touched / chosen : 1});
        };
        at::Tensor together = profile.together();
        together.fill_diagonal_(0);
        for (const std::int64_t size : {2, 4, 8}) {
            if (2 * size > experts) break;
            add("co-activation", size, size == 2 ? profile.matching : merge::match_groups(together, size));
            add("similarity", size, merge::match_groups(profile.similarity.to(at::kDouble), size));
            add("chance", size, merge::random_groups(experts, size, static_cast<std::uint64_t>(profile.layer)));
        }
    }

    // Needs the experts' own outputs.
    void look_at_experts(const model::MoeWeights& moe, const std::vector<RoutedLayer>& routed, LayerProfile& profile) const {
        std::vector<at::Tensor> inputs;
        for (const RoutedLayer& r : routed) inputs.push_back(r.inputs);
        const at::Tensor all = at::cat(inputs), x = all.index_select(0, at::arange(0, all.size(0), std::max<std::int64_t>(1, all.size(0) / sample_tokens)));
        std::vector<at::Tensor> outputs;
        for (std::int64_t e = 0; e < spec_.num_experts; ++e) {
            const ops::Mlp& expert = moe.experts[static_cast<std::size_t>(e)];
            outputs.push_back(expert(x).to(at::kFloat).flatten());
            const std::int64_t width = spec_.width_of(profile.layer, e);
            at::Tensor energy = at::zeros({width}, at::kDouble);
            std::int64_t count = 0;
            for (std::size_t s = 0; s < routed.size(); ++s) {
                const ExpertTokens reach = routed[s].of(e);
                if (reach.tokens.size(0) == 0) continue;
                const at::Tensor in = routed[s].inputs.index_select(0, reach.tokens);
                const at::Tensor a = expert_activations(expert, in), y = at::linear(a, expert.down.weight.to(at::kFloat));
                profile.output_norm[static_cast<std::int64_t>(s)][e] = (y.norm(2, {1}) * reach.gates).mean().item<double>();
                energy.add_((a * reach.gates.unsqueeze(1)).square().sum(0).to(at::kCPU, at::kDouble));
                count += reach.tokens.size(0);
            }
            if (count > 0)
                profile.neuron_energy[e].narrow(0, 0, width) = (merge::output_energy(energy, expert.down.weight.to(at::kCPU)) / static_cast<double>(count)).to(at::kFloat);
            check_interrupted();
        }
        const at::Tensor flat = at::stack(outputs), unit = flat / flat.norm(2, {1}, true).clamp_min(1e-12);
        profile.similarity = at::mm(unit, unit.t()).to(at::kCPU);
    }

    void redundancy(const model::MoeWeights& moe, LayerProfile& profile) const {
        const std::int64_t experts = spec_.num_experts;
        // The Gram matrix of the stacked experts, projection by projection: never all of them at once in f32.
        at::Tensor gram = at::zeros({experts, experts}, at::kDouble);
        const auto add = [&](const auto& weight_of) {
            // Experts may differ in width: what one does not have is zero.
            std::int64_t longest = 0;
            for (const ops::Mlp& expert : moe.experts) longest = std::max(longest, weight_of(expert).numel());
            std::vector<at::Tensor> rows;
            for (const ops::Mlp& expert : moe.experts) rows.push_back(at::constant_pad_nd(weight_of(expert).flatten(), {0, longest - weight_of(expert).numel()}));
            const at::Tensor stacked = at::stack(rows);
            gram.add_(at::mm(stacked, stacked.t()).to(at::kCPU, at::kDouble));
        };
        add([](const ops::Mlp& m) { return m.gate.weight; });
        add([](const ops::Mlp& m) { return m.up.weight; });
        add([](const ops::Mlp& m) { return m.down.weight.t(); });
        profile.shared_mean_energy = (gram.mean() / gram.diagonal().mean()).item<double>();
        const at::Tensor energies = at::linalg_eigvalsh(gram).flip({0}).clamp_min(0), cumulative = energies.cumsum(0) / energies.sum();
        profile.rank90 = static_cast<double>(cumulative.lt(0.9).sum().item<std::int64_t>() + 1) / static_cast<double>(experts);

        const at::Tensor together = profile.together();
        at::Tensor others = together.clone();
        others.fill_diagonal_(0);
        const at::Tensor counts = together.diagonal(), total = counts.sum().clamp_min(1);
        profile.best_partner = (std::get<0>(others.max(1)).sum() / total).item<double>();
        profile.matching = merge::match_pairs(others);
        double matched = 0;
        for (const auto& pair : profile.matching)
            if (pair.size() == 2) matched += 2 * others[pair[0]][pair[1]].item<double>();
        profile.matched_partner = matched / total.item<double>();
    }

    const arch::OpenModel& model_;
    const arch::ModelSpec& spec_;
    model::Placement placement_;
    model::Decoder decoder_;
    std::vector<ProfiledText>& texts_;
    std::vector<std::vector<at::Tensor>> streams_;  // [file][batch] of [B, L, D]
};

}  // namespace

std::string LayerProfile::label() const { return iteration ? fmt::format("{}.{}", layer, *iteration) : fmt::format("{}", layer); }

at::Tensor LayerProfile::together() const { return coactivation.sum(0).to(at::kDouble); }

at::Tensor LayerProfile::lift(std::int64_t tokens) const {
    const at::Tensor n = together(), counts = n.diagonal();
    return n * static_cast<double>(tokens) / at::outer(counts, counts).clamp_min(1);
}

Profile profile_model(const arch::OpenModel& model, std::vector<ProfiledText> texts, const model::Placement& placement) {
    const arch::ModelSpec& spec = model.spec;
    if (!spec.is_moe())
        throw Error(ErrorCode::unsupported, fmt::format("{}: {} is a dense architecture, it has no experts to profile", model.checkpoint.name, spec.architecture->model_type));
    if (spec.architecture->mlp == arch::MlpForm::plain || spec.architecture->moe->expert_bias)
        throw Error(ErrorCode::unsupported, fmt::format("{}: experts of the form of {} are not profiled yet", model.checkpoint.name, spec.architecture->model_type));
    const c10::InferenceMode guard;
    Profile profile;
    profile.layers = Profiler(model, texts, placement).run();
    for (const ProfiledText& text : texts) profile.tokens += text.tokens;
    profile.texts = std::move(texts);
    // Of the weights that a token passes through, those of a chain's experts in each iteration anew.
    const std::int64_t experts = 3 * spec.top_k * spec.expert_width * spec.hidden_size, moe_layers = std::ranges::count(spec.layers, arch::LayerKind::moe, &arch::LayerSpec::kind);
    profile.expert_share = static_cast<double>(experts * std::ssize(profile.layers)) / static_cast<double>(spec.num_active_parameters() + experts * (std::ssize(profile.layers) - moe_layers));
    return profile;
}

}  // namespace mixwright::calibrate
