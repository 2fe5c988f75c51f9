#include "calibrate/ridge_router.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>

#include "ops/product.h"

namespace mixwright::calibrate {
namespace {

constexpr std::array lambdas{1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1};

// What the regression needs of one layer. Targets are one-hot less 1/E: a softmax does not feel a vector added to every
// row, so nothing is lost, and the rows then sum to about zero. There is no bias to fold in: normed states have nearly one
// length and one large common component, through which the regression sets its own intercept.
class LayerFit {
public:
    LayerFit(std::int64_t num_domains, std::int64_t hidden_size)
        : gram_(at::zeros({hidden_size, hidden_size}, at::kDouble)), sums_(at::zeros({num_domains, hidden_size}, at::kDouble)) {
        held_out_.resize(static_cast<std::size_t>(num_domains));
    }

    /// `weight` makes domains with more text count no more than others.
    void add(std::int64_t domain, const at::Tensor& states_ND, double weight) {
        gram_.add_(ops::matrix_product(states_ND.t(), states_ND).to(at::kCPU, at::kDouble), weight);
        sums_[domain].add_(states_ND.sum(0).to(at::kCPU, at::kDouble), weight);
    }
    void hold_out(std::int64_t domain, const at::Tensor& states_ND) {
        held_out_[static_cast<std::size_t>(domain)].push_back(states_ND.to(at::kCPU));
    }

    RidgeLayer solve(std::optional<double> fixed_scale) const {
        const at::Tensor targets = sums_ - sums_.mean(0, true);
        const double mean_eigenvalue = gram_.diagonal().mean().item<double>();
        RidgeLayer best;
        best.cross_entropy = std::numeric_limits<double>::infinity();
        for (const double lambda : lambdas) {
            at::Tensor regularised = gram_.clone();
            regularised.diagonal().add_(lambda * mean_eigenvalue);
            const auto [factor, failed] = at::linalg_cholesky_ex(regularised);
            if (failed.item<int>() != 0) continue;
            const at::Tensor rows = at::cholesky_solve(targets.t(), factor).t().to(at::kFloat).contiguous();
            RidgeLayer candidate = judge(rows, fixed_scale);
            candidate.lambda = lambda;
            if (candidate.cross_entropy < best.cross_entropy) best = std::move(candidate);
        }
        return best;
    }

private:
    RidgeLayer judge(const at::Tensor& rows, std::optional<double> fixed_scale) const {
        std::vector<at::Tensor> logits;  // [N, E] a domain
        double accuracy = 0;
        for (std::size_t d = 0; d < held_out_.size(); ++d) {
            logits.push_back(at::mm(at::cat(held_out_[d]), rows.t()));
            accuracy += logits[d].argmax(1).eq(static_cast<std::int64_t>(d)).to(at::kDouble).mean().item<double>();
        }
        const auto cross_entropy = [&](double scale) {
            double sum = 0;
            for (std::size_t d = 0; d < logits.size(); ++d)
                sum -= at::log_softmax(logits[d] * scale, 1).select(1, static_cast<std::int64_t>(d)).mean().item<double>();
            return sum / static_cast<double>(logits.size());
        };
        const double scale = fixed_scale ? *fixed_scale : minimum(cross_entropy);
        return {.rows = rows * scale,
                .scale = scale,
                .accuracy = accuracy / static_cast<double>(logits.size()),
                .cross_entropy = cross_entropy(scale)};
    }

    // Golden section over log(scale): the loss is convex in the scale.
    template <class Loss>
    static double minimum(const Loss& loss) {
        constexpr double golden = 0.6180339887498949;
        double low = std::log(0.1), high = std::log(1000.0);
        double a = high - golden * (high - low), b = low + golden * (high - low);
        double loss_a = loss(std::exp(a)), loss_b = loss(std::exp(b));
        while (high - low > 0.02) {
            if (loss_a < loss_b) {
                high = b;
                b = a, loss_b = loss_a;
                a = high - golden * (high - low);
                loss_a = loss(std::exp(a));
            } else {
                low = a;
                a = b, loss_a = loss_b;
                b = low + golden * (high - low);
                loss_b = loss(std::exp(b));
            }
        }
        return std::exp((low + high) / 2);
    }

    at::Tensor gram_, sums_;  // [D, D] and [E, D], f64
    std::vector<std::vector<at::Tensor>> held_out_;
};

// Layers come one after another, all batches each: only one layer's statistics exist at a time.
class Fitter {
public:
    Fitter(std::vector<RidgeLayer>& layers, std::int64_t num_domains, std::int64_t hidden_size, std::optional<double> scale)
        : layers_(layers), num_domains_(num_domains), hidden_size_(hidden_size), scale_(scale) {}

    LayerFit& at_layer(std::int64_t layer) {
        if (layer != layer_) finish();
        layer_ = layer;
        if (!fit_) fit_ = std::make_unique<LayerFit>(num_domains_, hidden_size_);
        return *fit_;
    }
    void finish() {
        if (fit_) layers_.push_back(fit_->solve(scale_));
        fit_.reset();
    }

private:
    std::vector<RidgeLayer>& layers_;
    std::int64_t num_domains_, hidden_size_, layer_ = -1;
    std::optional<double> scale_;
    std::unique_ptr<LayerFit> fit_;
};

class DomainTaps final : public model::Taps {
public:
    DomainTaps(Fitter& fitter, std::int64_t domain, bool held_out, double weight)
        : fitter_(fitter), domain_(domain), held_out_(held_out), weight_(weight) {}

    void mlp_input(std::int64_t layer, const at::Tensor& hidden_BLD) override {
        // The first position of a sequence has nothing to attend to but itself: it says little of the domain.
        const at::Tensor states = hidden_BLD.narrow(1, 1, hidden_BLD.size(1) - 1).reshape({-1, hidden_BLD.size(2)}).to(at::kFloat);
        LayerFit& fit = fitter_.at_layer(layer);
        if (held_out_)
            fit.hold_out(domain_, states);
        else
            fit.add(domain_, states, weight_);
    }

private:
    Fitter& fitter_;
    std::int64_t domain_;
    bool held_out_;
    double weight_;
};

}  // namespace

std::vector<RidgeLayer> fit_ridge_routers(const arch::OpenModel& model, const std::vector<DomainTokens>& domains,
                                          const model::Placement& placement, std::optional<double> scale) {
    const c10::InferenceMode guard;
    std::vector<RidgeLayer> layers;
    Fitter fitter(layers, static_cast<std::int64_t>(domains.size()), model.spec.hidden_size, scale);
    std::vector<model::StreamedBatch> batches;
    std::vector<std::unique_ptr<DomainTaps>> taps;  // one a batch
    for (std::size_t d = 0; d < domains.size(); ++d) {
        const double weight = 1.0 / static_cast<double>(domains[d].num_fit);
        for (const bool held_out : {false, true})
            for (const model::StreamedBatch& batch : held_out ? domains[d].held_out : domains[d].fit) {
                batches.push_back(batch);
                taps.push_back(std::make_unique<DomainTaps>(fitter, static_cast<std::int64_t>(d), held_out, weight));
            }
    }
    model::LayerStream(model, placement).run(batches, [&](std::size_t batch) { return taps[batch].get(); });
    fitter.finish();
    return layers;
}

}  // namespace mixwright::calibrate
