#include "surgery/zip_typed.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "arch/zipped.h"
#include "merge/neuron_selection.h"
#include "surgery/neuron_choice.h"
#include "surgery/random_layer.h"

namespace mixwright::surgery {
namespace {

void expect_sound(const Layer& layer, const MadeBlock& made, double keep) {
    const arch::ZippedExperts& zipped = *made.zipped;
    EXPECT_LE(zipped.size(), keep * 3 * experts * width);
    const bool all_wide = std::ranges::all_of(zipped.windows, [](const arch::ExpertWindow& w) { return w.width == width; });
    EXPECT_TRUE(all_wide || zipped.size() > keep * 3 * experts * width - 3 * window_multiple(width)) << "there was room for another block";
    for (std::size_t e = 0; e < experts; ++e) {
        const arch::ExpertWindow& window = zipped.windows[e];
        EXPECT_EQ(window.width % window_multiple(width), 0);
        EXPECT_LE(window.width, width);
        EXPECT_LE(window.first + window.width, zipped.rows[static_cast<std::size_t>(window.group)]);
        EXPECT_EQ(made.weights.experts[e].gate.weight.size(0), window.width);
        EXPECT_EQ(made.weights.experts[e].down.weight.size(1), window.width);
        // Where windows overlap their rows are the same.
        for (std::size_t other = 0; other < e; ++other) {
            const arch::ExpertWindow& w = zipped.windows[other];
            const std::int64_t begin = std::max(w.first, window.first), count = std::min(w.first + w.width, window.first + window.width) - begin;
            if (w.group != window.group || count <= 0) continue;
            for (const auto part : {&ops::Mlp::gate, &ops::Mlp::up})
                EXPECT_TRUE(at::equal((made.weights.experts[e].*part).weight.narrow(0, begin - window.first, count),
                                      (made.weights.experts[other].*part).weight.narrow(0, begin - w.first, count)));
        }
    }
    EXPECT_TRUE(at::equal(router_of(made.weights), router_of(layer.weights)));
    EXPECT_NEAR(made.typed->dropped + made.typed->kept_private + made.typed->shared, 1, 1e-9);
}

TEST(Typed, windows_keep_the_budget_and_agree_on_what_they_share) {
    for (const bool twins : {false, true})
        for (const double keep : {0.4, 0.6, 0.8}) {
            const Layer layer(twins);
            expect_sound(layer, layer.make(ZipMethod::typed, keep), keep);
            expect_sound(layer, layer.make(ZipMethod::neuron, keep), keep);
        }
}

TEST(Typed, experts_that_are_alike_share) {
    const Layer layer(true);
    const MadeBlock typed = layer.make(ZipMethod::typed, 0.6), neuron = layer.make(ZipMethod::neuron, 0.6);
    EXPECT_GT(typed.typed->shared, 0.2);
    EXPECT_EQ(neuron.typed->shared, 0);
    EXPECT_LT(layer.error(typed.weights), 0.5 * layer.error(neuron.weights));
    EXPECT_NEAR(typed.typed->partner, 1, 1e-9);
    EXPECT_LT(typed.typed->read, typed.typed->read_apart);
}

TEST(Typed, experts_that_are_strangers_do_not_and_become_those_of_neuron_selection) {
    const Layer layer(false);
    const MadeBlock typed = layer.make(ZipMethod::typed, 0.6), neuron = layer.make(ZipMethod::neuron, 0.6);
    EXPECT_EQ(typed.typed->shared, 0);
    for (std::size_t e = 0; e < experts; ++e) {
        EXPECT_TRUE(at::equal(typed.weights.experts[e].gate.weight, neuron.weights.experts[e].gate.weight));
        EXPECT_TRUE(at::equal(typed.weights.experts[e].down.weight, neuron.weights.experts[e].down.weight));
    }
}

TEST(Typed, without_sharing_each_expert_keeps_what_selection_on_its_own_keeps) {
    const Layer layer(false, 2);
    const MadeBlock made = layer.make(ZipMethod::neuron, 0.5);
    for (std::int64_t e = 0; e < experts; ++e) {
        const calibrate::ExpertTokens reach = layer.routed.of(e);
        const ops::Mlp& own = layer.weights.experts[static_cast<std::size_t>(e)];
        const at::Tensor a = expert_activations(own, layer.routed.inputs.index_select(0, reach.tokens)) * reach.gates.unsqueeze(1);
        merge::NormalEquations equations(width, hidden);
        equations.add(a, at::linear(a, own.down.weight));
        const auto count = made.zipped->windows[static_cast<std::size_t>(e)].width;
        EXPECT_EQ(layer.origin(made.weights.experts[static_cast<std::size_t>(e)], e),
                  merge::select_neurons(equations.pulled_to(own.down.weight.t(), merge::selection_ridge), count, merge::Greedy::backward).kept);
    }
}

TEST(Typed, the_fit_is_never_worse_than_old_columns) {
    for (const bool twins : {false, true}) {
        const Layer layer(twins, 3);
        const MadeBlock made = layer.make(ZipMethod::typed, 0.5);
        for (std::int64_t e = 0; e < experts; ++e) {
            const auto& fitted = made.weights.experts[static_cast<std::size_t>(e)];
            ops::Mlp copied = fitted;
            const std::vector<std::int64_t> origin = layer.origin(fitted, e);
            copied.down.weight = at::zeros_like(fitted.down.weight);
            for (std::size_t r = 0; r < origin.size(); ++r)
                if (origin[r] >= 0) copied.down.weight.select(1, static_cast<std::int64_t>(r)).copy_(layer.weights.experts[static_cast<std::size_t>(e)].down.weight.select(1, origin[r]));
            EXPECT_LE(layer.error(fitted, e), layer.error(copied, e) * (1 + 1e-6));
        }
    }
}

TEST(Typed, error_falls_as_more_is_kept) {
    for (const bool twins : {false, true}) {
        const Layer layer(twins, 4);
        double before = std::numeric_limits<double>::infinity();
        for (const double keep : {0.34, 0.5, 0.67, 0.84, 1.0}) {
            const double error = layer.error(layer.make(ZipMethod::typed, keep).weights);
            EXPECT_LT(error, before) << keep;
            before = error;
        }
        EXPECT_LT(before, 1e-6 * layer.error(layer.make(ZipMethod::typed, 0.5).weights));
    }
}

TEST(Typed, needier_experts_get_more) {
    Layer layer(false, 5);
    layer.weights.experts[3].down.weight.mul_(0.01);
    const MadeBlock made = layer.make(ZipMethod::typed, 0.5);
    for (std::size_t e = 0; e < experts; ++e) EXPECT_GE(made.zipped->windows[e].width, made.zipped->windows[3].width);
    EXPECT_LT(made.zipped->windows[3].width, width / 2);
}

TEST(Typed, an_expert_without_tokens_keeps_the_mean_width_and_its_columns) {
    Layer layer(true, 6);
    layer.routed.experts = at::where(layer.routed.experts.eq(5), 4, layer.routed.experts).contiguous();
    const MadeBlock made = layer.make(ZipMethod::typed, 0.67);
    EXPECT_EQ(made.zipped->windows[5].width, 16);
    const std::vector<std::int64_t> origin = layer.origin(made.weights.experts[5], 5);
    for (std::size_t r = 0; r < origin.size(); ++r)
        EXPECT_TRUE(at::allclose(made.weights.experts[5].down.weight.select(1, static_cast<std::int64_t>(r)), layer.weights.experts[5].down.weight.select(1, origin[r])));
}

TEST(Typed, without_refit_the_loudest_neurons_stay_as_they_are) {
    const Layer layer(true, 7);
    const MadeBlock made = layer.make(ZipMethod::typed, 0.5, ZipFormat::zipped, false);
    EXPECT_EQ(made.typed->shared, 0);
    for (std::int64_t e = 0; e < experts; ++e) {
        const auto& expert = made.weights.experts[static_cast<std::size_t>(e)];
        const std::vector<std::int64_t> origin = layer.origin(expert, e);
        EXPECT_TRUE(at::equal(expert.down.weight, layer.weights.experts[static_cast<std::size_t>(e)].down.weight.index_select(1, at::tensor(origin))));
    }
}

TEST(Typed, of_one_width_every_expert_has_it) {
    for (const bool twins : {false, true}) {
        const Layer layer(twins, 8);
        const MadeBlock made = layer.make(ZipMethod::typed, 0.5, ZipFormat::standard);
        EXPECT_FALSE(made.zipped);
        for (const ops::Mlp& expert : made.weights.experts) EXPECT_EQ(expert.gate.weight.size(0), 12);
    }
}

}  // namespace
}  // namespace mixwright::surgery
