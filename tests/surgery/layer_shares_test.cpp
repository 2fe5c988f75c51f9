#include "surgery/layer_shares.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "merge/shared_neurons.h"
#include "surgery/neuron_choice.h"
#include "surgery/random_layer.h"

namespace mixwright::surgery {
namespace {

using Curves = std::vector<merge::WidthCurve>;

Curves curves(const Layer& layer, const at::Tensor& gradients, double keep, bool refit = true) {
    const ZipOptions options{.method = ZipMethod::neuron, .format = ZipFormat::zipped, .budget = ZipBudget::loss, .keep = keep, .refit = refit};
    return loss_curves({layer.spec, layer.spec, layer.weights, layer.routed, options, 0, gradients});
}

at::Tensor gradients(double size = 1) { return at::randn({tokens, hidden}) * size; }

// A layer that says `loudness` times as much.
Layer loud(double loudness, std::uint64_t seed) {
    Layer layer(false, seed);
    for (ops::Mlp& expert : layer.weights.experts) expert.down.weight.mul_(loudness);
    return layer;
}

// Of equally large layers.
double total(const std::vector<double>& shares) {
    double sum = 0;
    for (const double share : shares) sum += share;
    return sum / static_cast<double>(shares.size());
}

TEST(LayerShares, add_up_to_the_budget_to_within_a_block) {
    for (const bool refit : {true, false})
        for (const double keep : {0.4, 0.5, 0.61, 0.9}) {
            std::vector<Curves> layers;
            for (const double loudness : {0.3, 1.0, 2.0}) layers.push_back(curves(loud(loudness, 1), gradients(), keep, refit));
            const std::vector<double> shares = share_out(layers, width, keep);
            const double block = static_cast<double>(window_multiple(width)) / static_cast<double>(3 * experts * width);
            EXPECT_LE(total(shares), keep + 1e-12);
            EXPECT_GT(total(shares), keep - block);
        }
}

TEST(LayerShares, a_layer_whose_output_is_larger_keeps_more) {
    const std::vector<double> shares = share_out({curves(loud(1, 2), gradients(), 0.5), curves(loud(4, 2), gradients(), 0.5)}, width, 0.5);
    EXPECT_GT(shares[1], shares[0] + 0.1);
}

TEST(LayerShares, a_layer_to_which_the_loss_is_more_sensitive_keeps_more) {
    const Layer layer(false, 3);
    const std::vector<double> shares = share_out({curves(layer, gradients(4), 0.5), curves(layer, gradients(), 0.5)}, width, 0.5);
    EXPECT_GT(shares[0], shares[1] + 0.1);
}

TEST(LayerShares, like_layers_keep_alike_and_all_when_all_is_kept) {
    const Layer layer(false, 4);
    const at::Tensor same = gradients();
    const std::vector<double> alike = share_out({curves(layer, same, 0.5), curves(layer, same, 0.5)}, width, 0.5);
    EXPECT_NEAR(alike[0], alike[1], 1.0 / experts);
    for (const double share : share_out({curves(loud(9, 4), same, 1), {}, curves(layer, same, 1)}, width, 1)) EXPECT_EQ(share, 1);
}

// Curves are nats: a step of the loss along random directions costs what they say.
TEST(LayerShares, curves_tell_what_the_loss_would_rise_by) {
    const Layer layer(false, 5);
    const at::Tensor slopes = gradients(0.3);
    const Curves told = curves(layer, slopes, 0.5, false);
    for (std::int64_t e = 0; e < experts; ++e) {
        const merge::WidthCurve& curve = told[static_cast<std::size_t>(e)];
        const calibrate::ExpertTokens reach = layer.routed.of(e);
        const ops::Mlp& expert = layer.weights.experts[static_cast<std::size_t>(e)];
        const at::Tensor a = expert_activations(expert, layer.routed.inputs.index_select(0, reach.tokens)) * reach.gates.unsqueeze(1);
        const at::Tensor gone = (at::mm(slopes.index_select(0, reach.tokens), expert.down.weight) * a).square().sum(0) / 2;  // of each neuron alone
        const double rise = std::get<0>(gone.sort()).narrow(0, 0, width / 2).sum().item<double>();
        EXPECT_LT(std::abs(std::log(curve.errors[width / 2] / rise)), std::log(2.0)) << curve.errors[width / 2] << " for " << rise;
    }
}

TEST(LayerShares, a_layer_made_with_its_share_takes_all_of_it) {
    const Layer layer(false, 6);
    for (std::int64_t neurons = experts * 16; neurons <= experts * width; neurons += window_multiple(width)) {
        const double share = static_cast<double>(neurons) / static_cast<double>(experts * width);
        EXPECT_EQ(layer.make(ZipMethod::neuron, share).zipped->size(), 3 * neurons) << share;
    }
}

}  // namespace
}  // namespace mixwright::surgery
