#include "calibrate/profile.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>

#include "calibrate/routed_layer.h"
#include "error.h"
#include "merge/neuron_selection.h"
#include "ops/product.h"
#include "progress.h"

namespace mixwright::calibrate {
namespace {

constexpr std::int64_t sample_tokens = 512;  // for what looks at every expert on the same tokens

class Profiler {
public:
    Profiler(const arch::OpenModel& model, std::vector<ProfiledText>& texts, const model::Placement& placement, const distributed::Ranks& ranks)
        : model_(model), spec_(model.spec), placement_(placement), decoder_(model.spec), texts_(texts), ranks_(ranks) {
        model::ModelWeights ends;
        const auto& embedding = model.tensors->at("model.embed_tokens.weight");
        ends.embedding = model::load_tensor(model, embedding.name, {model::scalar_type(embedding.dtype), placement.device});
        std::int64_t total = 0, token = 0;
        for (const ProfiledText& text : texts_) total += text.tokens;
        const std::int64_t every = std::max<std::int64_t>(1, total / sample_tokens);
        for (ProfiledText& text : texts_) {
            streams_.emplace_back();
            std::vector<at::Tensor> places;  // of this rank's tokens among those of all
            std::int64_t sequence = 0;
            for (const model::StreamedBatch& batch : text.batches) {
                // Sequences go round the ranks. The first of a text, which is shown token by token, is the leading rank's.
                const auto share = [&](const at::Tensor& rows_BL) {
                    return rows_BL.slice(0, (ranks.size() - sequence % ranks.size() + ranks.rank()) % ranks.size(), rows_BL.size(0), ranks.size());
                };
                places.push_back(share(at::arange(token, token + batch.ids.numel()).view(batch.ids.sizes())).flatten());
                if (const at::Tensor ids = share(batch.ids); ids.size(0) > 0)
                    streams_.back().push_back(decoder_.embed(ends, ids.to(placement.device), placement.dtype));
                sequence += batch.ids.size(0);
                token += batch.ids.numel();
            }
            text.batches.clear();
            sampled_.push_back(at::cat(places).remainder(every).eq(0).nonzero().squeeze(1).to(placement.device));
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
    // [iteration][file], of this rank's sequences.
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
            std::vector<RoutedLayer> iterations = stream.empty() ? std::vector(routed.size(), no_tokens()) : taps.take_iterations(0);
            for (std::size_t t = 0; t < iterations.size(); ++t) routed[t].push_back(std::move(iterations[t]));
        }
        return routed;
    }

    // What a rank has of a text with fewer sequences than ranks.
    RoutedLayer no_tokens() const {
        const auto none = [&](std::int64_t width, at::ScalarType dtype) { return at::empty({0, width}, at::device(placement_.device).dtype(dtype)); };
        return {.inputs = none(spec_.hidden_size, placement_.dtype),
                .logits = none(spec_.num_experts, at::kFloat),
                .experts = none(spec_.top_k, at::kLong),
                .gates = none(spec_.top_k, at::kFloat)};
    }

    // Sums over this rank's tokens, added over the ranks, then made into means. What follows from them each rank works out for itself.
    LayerProfile measure(const model::MoeWeights& moe, std::int64_t layer, const std::vector<RoutedLayer>& routed) const {
        const auto files = static_cast<std::int64_t>(routed.size()), experts = spec_.num_experts;
        LayerProfile profile{.layer = layer,
                             .counts = at::zeros({files, experts}, at::kLong),
                             .gate_mass = at::zeros({files, experts}, at::kDouble),
                             .output_norm = at::zeros({files, experts}, at::kDouble),
                             .gate_moments = at::zeros({experts, experts}, at::kDouble),
                             .coactivation = at::zeros({files, experts, experts}, at::kLong),
                             .entropy = at::zeros({files}, at::kDouble),
                             .neuron_energy = at::zeros({experts, spec_.expert_width}, at::kDouble)};
        for (std::int64_t s = 0; s < files; ++s) {
            const RoutedLayer& r = routed[static_cast<std::size_t>(s)];
            const at::Tensor chosen = at::one_hot(r.experts, experts).to(at::kFloat);           // [N, K, E]
            const at::Tensor hot = chosen.sum(1), gates = (chosen * r.gates.unsqueeze(2)).sum(1);  // [N, E]
            profile.counts[s] = hot.sum(0).to(at::kLong);
            profile.gate_mass[s] = gates.sum(0, false, at::kDouble);
            profile.gate_moments.add_(at::mm(gates.t(), gates).to(at::kCPU, at::kDouble));
            profile.coactivation[s] = at::mm(hot.t(), hot).round().to(at::kCPU, at::kLong);
            const at::Tensor log_p = at::log_softmax(r.logits.to(at::kFloat), -1);
            profile.entropy[s] = -(log_p.exp() * log_p).sum(at::kDouble);
            const auto shown = std::min(std::ssize(texts_[static_cast<std::size_t>(s)].sample), static_cast<std::ptrdiff_t>(r.experts.size(0)));
            profile.sample.push_back(r.experts.narrow(0, 0, shown).to(at::kCPU));
        }
        const at::Tensor outputs = look_at_experts(moe, routed, profile), weights = weight_products(moe);
        add_over_ranks({profile.counts, profile.gate_mass, profile.output_norm, profile.gate_moments, profile.coactivation, profile.entropy, profile.neuron_energy,
                        outputs, weights});

        for (std::int64_t s = 0; s < files; ++s) profile.entropy[s].div_(texts_[static_cast<std::size_t>(s)].tokens);
        profile.output_norm.div_(profile.counts.clamp_min(1));
        const at::Tensor length = outputs.diagonal().sqrt().clamp_min(1e-12);
        profile.similarity = (outputs / at::outer(length, length)).to(at::kFloat);
        profile.neuron_energy = (profile.neuron_energy / profile.counts.sum(0).clamp_min(1).unsqueeze(1)).to(at::kFloat);
        redundancy(weights, profile);
        group(routed, profile);
        return profile;
    }

    void add_over_ranks(std::initializer_list<at::Tensor> sums) const {
        std::vector<distributed::Transfer> transfers;
        for (const at::Tensor& sum : sums) transfers.push_back(ranks_.everyone().sum(sum));
        for (distributed::Transfer& transfer : transfers) transfer.wait();
    }

    // In how many groups a token's experts lie, for several ways to group them.
    void group(const std::vector<RoutedLayer>& routed, LayerProfile& profile) const {
        const std::int64_t experts = spec_.num_experts;
        std::vector<double> touched;
        const auto add = [&](const char* by, std::int64_t size, const merge::Groups& groups) {
            at::Tensor group_of = at::zeros({experts}, at::kLong);
            for (std::size_t g = 0; g < groups.size(); ++g)
                for (const std::int64_t e : groups[g]) group_of[e] = static_cast<std::int64_t>(g);
            touched.push_back(0);
            for (const RoutedLayer& r : routed) {
                const at::Tensor groups_NK = group_of.index_select(0, r.experts.to(at::kCPU).flatten()).view(r.experts.sizes());
                touched.back() += at::zeros({groups_NK.size(0), std::ssize(groups)}, at::kFloat).scatter_(1, groups_NK, 1.0f).sum(at::kDouble).item<double>();
            }
            profile.groupings.push_back({by, size});
        };
        at::Tensor together = profile.together();
        together.fill_diagonal_(0);
        for (const std::int64_t size : {2, 4, 8}) {
            if (2 * size > experts) break;
            add("co-activation", size, size == 2 ? profile.matching : merge::match_groups(together, size));
            add("similarity", size, merge::match_groups(profile.similarity.to(at::kDouble), size));
            add("chance", size, merge::random_groups(experts, size, static_cast<std::uint64_t>(profile.layer)));
        }
        touched = ranks_.sum(std::move(touched));
        const double chosen = profile.counts.sum().item<double>();
        for (std::size_t i = 0; i < touched.size(); ++i) profile.groupings[i].touched = touched[i] / chosen;
    }

    // Needs the experts' own outputs. Returns their products with each other on the sampled tokens, [E, E] f64.
    at::Tensor look_at_experts(const model::MoeWeights& moe, const std::vector<RoutedLayer>& routed, LayerProfile& profile) const {
        std::vector<at::Tensor> inputs;
        for (std::size_t s = 0; s < routed.size(); ++s) inputs.push_back(routed[s].inputs.index_select(0, sampled_[s]));
        const at::Tensor x = at::cat(inputs);
        std::vector<at::Tensor> outputs;
        for (std::int64_t e = 0; e < spec_.num_experts; ++e) {
            const ops::Mlp& expert = moe.experts[static_cast<std::size_t>(e)];
            outputs.push_back(expert(x).to(at::kFloat).flatten());
            const std::int64_t width = spec_.width_of(profile.layer, e);
            at::Tensor energy = at::zeros({width}, at::kDouble);
            for (std::size_t s = 0; s < routed.size(); ++s) {
                const ExpertTokens reach = routed[s].of(e);
                if (reach.tokens.size(0) == 0) continue;
                const at::Tensor in = routed[s].inputs.index_select(0, reach.tokens);
                const at::Tensor a = expert_activations(expert, in), y = ops::linear_product(a, expert.down.weight.to(at::kFloat));
                profile.output_norm[static_cast<std::int64_t>(s)][e] = (y.norm(2, {1}) * reach.gates).sum(at::kDouble);
                energy.add_((a * reach.gates.unsqueeze(1)).square().sum(0).to(at::kCPU, at::kDouble));
            }
            profile.neuron_energy[e].narrow(0, 0, width) = merge::output_energy(energy, expert.down.weight.to(at::kCPU));
            check_interrupted();
        }
        const at::Tensor flat = at::stack(outputs);
        return ops::matrix_product(flat, flat.t()).to(at::kCPU, at::kDouble);
    }

    // The Gram matrix of the stacked experts, [E, E] f64, over this rank's share of the weights. Projection by projection: never all of
    // them at once in f32.
    at::Tensor weight_products(const model::MoeWeights& moe) const {
        at::Tensor gram = at::zeros({spec_.num_experts, spec_.num_experts}, at::kDouble);
        const auto add = [&](const auto& weight_of) {
            // Experts may differ in width: what one does not have is zero.
            std::int64_t longest = 0;
            for (const ops::Mlp& expert : moe.experts) longest = std::max(longest, weight_of(expert).numel());
            std::vector<at::Tensor> rows;
            for (const ops::Mlp& expert : moe.experts) rows.push_back(at::constant_pad_nd(weight_of(expert).flatten(), {0, longest - weight_of(expert).numel()}));
            const at::Tensor stacked = at::stack(rows).slice(1, ranks_.rank(), longest, ranks_.size());
            gram.add_(ops::matrix_product(stacked, stacked.t()).to(at::kCPU, at::kDouble));
        };
        add([](const ops::Mlp& m) { return m.gate.weight; });
        add([](const ops::Mlp& m) { return m.up.weight; });
        add([](const ops::Mlp& m) { return m.down.weight.t(); });
        return gram;
    }

    static void redundancy(const at::Tensor& gram, LayerProfile& profile) {
        profile.shared_mean_energy = (gram.mean() / gram.diagonal().mean()).item<double>();
        const at::Tensor energies = at::linalg_eigvalsh(gram).flip({0}).clamp_min(0), cumulative = energies.cumsum(0) / energies.sum();
        profile.rank90 = static_cast<double>(cumulative.lt(0.9).sum().item<std::int64_t>() + 1) / static_cast<double>(gram.size(0));

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
    const distributed::Ranks& ranks_;
    std::vector<std::vector<at::Tensor>> streams_;  // [file][batch] of [B, L, D]: this rank's sequences
    std::vector<at::Tensor> sampled_;               // [file]: those of its tokens on which all experts are looked at, int64
};

}  // namespace

std::string LayerProfile::label() const { return iteration ? fmt::format("{}.{}", layer, *iteration) : fmt::format("{}", layer); }

at::Tensor LayerProfile::together() const { return coactivation.sum(0).to(at::kDouble); }

at::Tensor LayerProfile::lift(std::int64_t tokens) const {
    const at::Tensor n = together(), counts = n.diagonal();
    return n * static_cast<double>(tokens) / at::outer(counts, counts).clamp_min(1);
}

Profile profile_model(const arch::OpenModel& model, std::vector<ProfiledText> texts, const model::Placement& placement, const distributed::Ranks& ranks) {
    const arch::ModelSpec& spec = model.spec;
    if (!spec.is_moe())
        throw Error(ErrorCode::unsupported, fmt::format("{}: {} is a dense architecture, it has no experts to profile", model.checkpoint.name, spec.architecture->model_type));
    if (spec.architecture->mlp == arch::MlpForm::plain || spec.architecture->moe->expert_bias)
        throw Error(ErrorCode::unsupported, fmt::format("{}: experts of the form of {} are not profiled yet", model.checkpoint.name, spec.architecture->model_type));
    const c10::InferenceMode guard;
    Profile profile;
    profile.layers = Profiler(model, texts, placement, ranks).run();
    for (const ProfiledText& text : texts) profile.tokens += text.tokens;
    profile.texts = std::move(texts);
    // Of the weights that a token passes through, those of a chain's experts in each iteration anew.
    const std::int64_t experts = 3 * spec.top_k * spec.expert_width * spec.hidden_size, moe_layers = std::ranges::count(spec.layers, arch::LayerKind::moe, &arch::LayerSpec::kind);
    profile.expert_share = static_cast<double>(experts * std::ssize(profile.layers)) / static_cast<double>(spec.num_active_parameters() + experts * (std::ssize(profile.layers) - moe_layers));
    return profile;
}

}  // namespace mixwright::calibrate
