#include "split/splitter.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "arch/zipped.h"
#include "error.h"
#include "split/averaging.h"
#include "split/recovery.h"
#include "surgery/moe_plan.h"

namespace mixwright::split {
namespace {

constexpr const char* beside = "Its MLPs are experts side by side, each times its mean weight.";

class Splitter : public std::enable_shared_from_this<Splitter> {
public:
    Splitter(const arch::OpenModel& moe, const SplitOptions& options, const std::vector<LayerRouting>& routing, bool measured)
        : moe_(moe), spec_(moe.spec), options_(options), routing_(routing), measured_(measured) {
        if (spec_.shared_width == 0 && options_.shared_only) throw Error(ErrorCode::usage, "--expert shared: the model has no shared expert");
    }

    DenseModel shared_only() const {
        return assembled("", "Its MLPs are the shared experts.", [&](std::size_t i) { return LayerMlp{shared_block(moe_, routing_[i].layer)}; });
    }

    // One expert in each MoE layer.
    DenseModel path(std::string name, std::string about, const std::vector<std::int64_t>& experts) const {
        std::vector<std::vector<std::int64_t>> alone;
        for (const std::int64_t e : experts) alone.push_back({e});
        return side_by_side(std::move(name), std::move(about), alone);
    }

    // Several in each, side by side, each by its share of the weight: one that stands alone has all of it.
    DenseModel side_by_side(std::string name, std::string about, const std::vector<std::vector<std::int64_t>>& experts) const {
        return assembled(std::move(name), std::move(about), [&](std::size_t i) {
            double chosen = 0;
            for (const std::int64_t e : experts[i]) chosen += mass(i, e);
            LayerMlp mlp;
            for (const std::int64_t e : experts[i]) {
                const double share = chosen > 0 ? mass(i, e) / chosen : 1.0 / static_cast<double>(experts[i].size());
                mlp.push_back(expert_block(moe_, routing_[i].layer, e, total_weight(i) * share));
            }
            return with_shared(i, std::move(mlp));
        });
    }

    // The experts with the most weight, as many as fit into the width.
    DenseModel concat() const {
        const std::int64_t shared = options_.shared == Shared::concat ? spec_.shared_width : 0;
        const std::int64_t width = options_.width > 0 ? options_.width : active_width(spec_, options_.shared);
        const std::int64_t one = arch::widest_expert(spec_), count = (width - shared) / one;
        if (count < 1 || count > spec_.num_experts || (width - shared) % one != 0)
            throw Error(ErrorCode::usage, fmt::format("--width {}: whole experts cannot be put side by side to that width", width),
                        fmt::format("n times {} and {} for the shared expert, n from 1 to {}", one, shared, spec_.num_experts));
        std::vector<std::vector<std::int64_t>> experts;
        for (const LayerRouting& layer : routing_) {
            const at::Tensor best = std::get<1>(layer.mass.topk(count)).contiguous();
            experts.emplace_back(best.const_data_ptr<std::int64_t>(), best.const_data_ptr<std::int64_t>() + count);
        }
        return side_by_side("", beside, experts);
    }

    // All experts averaged into one, computed when it is written.
    DenseModel averaged() const {
        if (spec_.architecture->moe->zipped)
            throw Error(ErrorCode::unsupported, fmt::format("{}: experts of several widths are not averaged", spec_.architecture->model_type),
                        "--method slice, concat, routed and fit take them as they are");
        const bool slerp = options_.method == Method::slerp;
        const auto compute = [self = shared_from_this(), this, slerp](std::int64_t i) {
            const auto layer = static_cast<std::size_t>(i);
            std::vector<MlpBlock> experts;
            std::vector<double> weights;
            const double sum = routing_[layer].mass.sum().item<double>();
            for (std::int64_t e = 0; e < spec_.num_experts; ++e) {
                experts.push_back(expert_block(moe_, routing_[layer].layer, e));
                weights.push_back(sum > 0 ? mass(layer, e) / sum : 1.0 / static_cast<double>(spec_.num_experts));
            }
            return slerp ? slerp_chain(experts) : mean_mlp(experts, weights, options_.align);
        };
        const std::string identity = fmt::format("{} align {} data {}", method_name(options_.method), options_.align, options_.data_identity);
        const auto blocks = computed_blocks(static_cast<std::int64_t>(routing_.size()), spec_.hidden_size, spec_.expert_width, biased(), identity, compute);
        return assembled("", fmt::format("Its MLPs are the {} of all experts.", slerp ? "chained slerp" : options_.align ? "aligned mean" : "mean"), [&](std::size_t i) {
            MlpBlock block = blocks[i];
            (spec_.architecture->moe->weigh_input ? block.input_scale : block.output_scale) = total_weight(i);
            return with_shared(i, {std::move(block)});
        });
    }

    DenseModel fitted(std::string name, StudentText text, const model::Placement& placement) const {
        const std::int64_t width = options_.width > 0 ? options_.width : active_width(spec_, Shared::concat);
        if (width > total_width(spec_))
            throw Error(ErrorCode::usage, fmt::format("--width {}: a MoE layer has {} neurons in all", width, total_width(spec_)));
        const std::string about = fmt::format("Its MLPs hold {} neurons each, chosen over all experts; their down projections are fitted by least squares "
                                              "to the outputs of the mixture{}.", width, text.about.empty() ? "" : " on " + text.about);
        const auto student = std::make_shared<Student>(moe_, std::move(text), StudentOptions{.width = width, .placement = placement});
        std::vector<std::int64_t> layers;
        for (const LayerRouting& layer : routing_) layers.push_back(layer.layer);
        const auto blocks = computed_blocks(static_cast<std::int64_t>(layers.size()), spec_.hidden_size, width, biased(),
                                            fmt::format("fit {} width {} data {}", name, width, options_.data_identity),
                                            [student, layers](std::int64_t i) { return student->layer(layers[static_cast<std::size_t>(i)]); });
        DenseModel model = assembled(std::move(name), about, [&](std::size_t i) { return LayerMlp{blocks[i]}; });
        model.student = student;
        return model;
    }

private:
    template <class Make>
    DenseModel assembled(std::string name, std::string about, Make make) const {
        DenseModel model{.name = std::move(name), .about = std::move(about), .mlps = std::vector<LayerMlp>(static_cast<std::size_t>(spec_.num_layers))};
        for (std::size_t i = 0; i < routing_.size(); ++i) {
            LayerMlp mlp = make(i);
            model.width = std::max(model.width, width_of(mlp));
            model.mlps[static_cast<std::size_t>(routing_[i].layer)] = std::move(mlp);
        }
        return model;
    }

    LayerMlp with_shared(std::size_t i, LayerMlp mlp) const {
        if (options_.shared == Shared::concat && spec_.shared_width > 0)
            mlp.push_back(shared_block(moe_, routing_[i].layer, spec_.architecture->moe->shared_gate_name.empty() ? 1.0 : routing_[i].shared_gate));
        return mlp;
    }

    bool biased() const { return spec_.architecture->moe->expert_bias; }

    double mass(std::size_t i, std::int64_t expert) const { return routing_[i].mass[expert].item<double>(); }

    // What the weights of a token's experts add up to, in the mean.
    double total_weight(std::size_t i) const {
        if (spec_.norm_topk_prob) return spec_.routed_scaling_factor;
        return measured_ ? routing_[i].mass.sum().item<double>() : 1.0;
    }

    const arch::OpenModel& moe_;
    const arch::ModelSpec& spec_;
    // Kept by value: computed blocks read them when the model is written.
    SplitOptions options_;
    std::vector<LayerRouting> routing_;
    bool measured_;
};

}  // namespace

std::int64_t active_width(const arch::ModelSpec& moe, Shared shared) {
    return moe.top_k * arch::widest_expert(moe) + (shared == Shared::concat ? moe.shared_width : 0);
}

std::int64_t total_width(const arch::ModelSpec& moe) {
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (const std::int64_t layer : surgery::moe_layers(moe)) {
        std::int64_t width = moe.shared_width;
        for (std::int64_t e = 0; e < moe.num_experts; ++e) width += moe.width_of(layer, e);
        least = std::min(least, width);
    }
    return least;
}

std::vector<DenseModel> plan_dense_models(const arch::OpenModel& moe, const SplitOptions& options, const std::vector<LayerRouting>& routing, bool measured,
                                          std::vector<StudentText> texts, const model::Placement& placement) {
    const auto splitter = std::make_shared<Splitter>(moe, options, routing, measured);
    if (options.shared_only) return {splitter->shared_only()};
    std::vector<DenseModel> models;
    switch (options.method) {
        case Method::slice:
            if (!options.experts_per_layer.empty()) return {splitter->side_by_side("", beside, options.experts_per_layer)};
            for (std::int64_t e = 0; e < moe.spec.num_experts; ++e) {
                if (!options.all && e != options.expert.value_or(0)) continue;
                std::vector<double> recovery = recovery_errors(moe, e);
                models.push_back(splitter->path(options.all ? fmt::format("expert-{}", e) : "", fmt::format("Its MLPs are expert {} of every layer.{}{}", e, recovery.empty() ? "" : " ", recovery_text(recovery)),
                                                std::vector<std::int64_t>(routing.size(), e)));
                models.back().recovery = std::move(recovery);
            }
            return models;
        case Method::routed: {
            const auto text = [](const std::vector<std::int64_t>& path) { return fmt::format("Its MLPs are one expert of each layer, on a path tokens take: {}.", fmt::join(path, ", ")); };
            if (!options.all) {
                const auto path = strongest_path(routing);
                return {splitter->path("", text(path), path)};
            }
            for (const auto& path : disjoint_paths(routing)) models.push_back(splitter->path(fmt::format("path-{}", models.size()), text(path), path));
            return models;
        }
        case Method::concat: return {splitter->concat()};
        case Method::fit: {
            const bool one = texts.size() == 1;
            for (StudentText& text : texts) models.push_back(splitter->fitted(one ? "" : fmt::format("student-{}", models.size()), std::move(text), placement));
            return models;
        }
        case Method::mean:
        case Method::slerp: models.push_back(splitter->averaged()); break;
    }
    return models;
}

}  // namespace mixwright::split
