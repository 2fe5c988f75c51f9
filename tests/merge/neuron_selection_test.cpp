#include "merge/neuron_selection.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "error.h"

namespace mixwright::merge {
namespace {

struct Expert {
    at::Tensor activations;  // [N, n], correlated
    at::Tensor down;         // [d, n]
    NormalEquations equations;

    Expert(std::int64_t rows, std::int64_t neurons, std::int64_t outputs, std::uint64_t seed)
        : equations(neurons, outputs) {
        at::manual_seed(seed);
        const at::Tensor common = at::randn({rows, neurons / 2 + 1}, at::kDouble);
        activations = at::mm(common, at::randn({neurons / 2 + 1, neurons}, at::kDouble)) + 0.7 * at::randn({rows, neurons}, at::kDouble);
        down = at::randn({outputs, neurons}, at::kDouble) * at::rand({1, neurons}, at::kDouble);
        equations.add(activations, at::mm(activations, down.t()));
    }
    double refit_error(const std::vector<std::int64_t>& kept) const {
        const NormalEquations some = equations.of(kept);
        return some.squared_error(solve(some));
    }
};

std::vector<std::int64_t> all(std::int64_t count) {
    std::vector<std::int64_t> indices(static_cast<std::size_t>(count));
    std::iota(indices.begin(), indices.end(), 0);
    return indices;
}

class BothWays : public ::testing::TestWithParam<Greedy> {};
INSTANTIATE_TEST_SUITE_P(Greedy, BothWays, ::testing::Values(Greedy::forward, Greedy::backward));

TEST_P(BothWays, ErrorsToldAreTheErrorsOfTheRefits) {
    const Expert expert(400, 70, 20, 1);  // more neurons than one panel of steps
    const Selection selection = select_neurons(expert.equations, GetParam() == Greedy::forward ? 60 : 9, GetParam());
    const double scale = expert.equations.energy();
    for (const std::size_t step : {std::size_t{1}, std::size_t{10}, selection.order.size() - 7, selection.order.size()}) {
        std::vector<std::int64_t> kept(selection.order.begin(), selection.order.begin() + static_cast<std::ptrdiff_t>(step));
        if (GetParam() == Greedy::backward) {
            std::vector<std::int64_t> left;
            for (const std::int64_t k : all(70))
                if (std::ranges::find(kept, k) == kept.end()) left.push_back(k);
            kept = left;
        }
        EXPECT_NEAR(selection.errors[step] / scale, expert.refit_error(kept) / scale, 1e-6) << "step " << step;
    }
}

TEST_P(BothWays, EveryStepIsTheBestSingleStep) {
    const Expert expert(200, 12, 6, 2);
    const Selection selection = select_neurons(expert.equations, 6, GetParam());
    std::vector<std::int64_t> kept = GetParam() == Greedy::forward ? std::vector<std::int64_t>{} : all(12);
    for (const std::int64_t chosen : selection.order) {
        const auto after = [&](std::int64_t k) {
            std::vector<std::int64_t> next = kept;
            if (GetParam() == Greedy::forward)
                next.push_back(k);
            else
                std::erase(next, k);
            return expert.refit_error(next);
        };
        for (std::int64_t k = 0; k < 12; ++k) {
            const bool possible = (std::ranges::find(kept, k) == kept.end()) == (GetParam() == Greedy::forward);
            if (possible) {
                EXPECT_LE(after(chosen), after(k) * (1 + 1e-6));
            }
        }
        if (GetParam() == Greedy::forward)
            kept.push_back(chosen);
        else
            std::erase(kept, chosen);
    }
}

TEST_P(BothWays, ErrorFallsAsTheKeptSetGrows) {
    const Expert expert(300, 40, 15, 3);
    double before = std::numeric_limits<double>::infinity();
    for (std::int64_t count = 0; count <= 40; count += 5) {
        const double error = expert.refit_error(select_neurons(expert.equations, count, GetParam()).kept);
        EXPECT_LE(error, before * (1 + 1e-9));
        before = error;
    }
}

// The forward choice as it is defined: after each step everything that is left is computed anew.
double error_of_plain_greedy(const NormalEquations& equations, std::int64_t count) {
    at::Tensor s = equations.gram().clone(), x = equations.cross().clone();
    double error = equations.energy();
    for (std::int64_t step = 0; step < count; ++step) {
        const at::Tensor worth = x.square().sum(1) / s.diagonal().clamp_min(1e-9);
        const std::int64_t k = worth.argmax().item<std::int64_t>();
        error -= worth[k].item<double>();
        const at::Tensor column = s.select(1, k) / s[k][k];
        x = x - column.unsqueeze(1) * x[k].unsqueeze(0);
        s = s - column.unsqueeze(1) * s[k].clone().unsqueeze(0);
        x[k].zero_();
    }
    return error;
}

TEST_P(BothWays, ManyCandidatesAreChosenInPanelsOfTheForemost) {
    const Expert expert(1500, 900, 40, 10);  // more than are open at once
    const NormalEquations pulled = expert.equations.pulled_to(expert.down.t(), 1e-3);
    const Selection selection = select_neurons(pulled, 300, GetParam());
    EXPECT_EQ(selection.kept.size(), 300u);
    const NormalEquations kept = pulled.of(selection.kept);
    const double error = kept.squared_error(solve(kept)) / pulled.energy();
    EXPECT_NEAR(selection.errors.back() / pulled.energy(), error, 1e-6);
    EXPECT_LE(error, (GetParam() == Greedy::forward ? 1.01 : 1.05) * error_of_plain_greedy(pulled, 300) / pulled.energy());
}

TEST(NeuronSelection, KeepingAllChangesNothing) {
    const Expert expert(500, 32, 16, 4);
    const RefitNeurons refit = select_and_refit(expert.equations, NormalEquations(32, 16), expert.down, 32);
    EXPECT_EQ(refit.kept, all(32));
    EXPECT_LT((refit.down - expert.down).abs().max().item<double>(), 1e-6);
    EXPECT_LT(refit.error, 1e-10);
}

TEST(NeuronSelection, RefitIsNeverWorseThanTheColumnsAsTheyWere) {
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        // From far fewer tokens than neurons to plenty.
        const Expert fit(10 << seed, 48, 24, seed);
        const Expert held_out(5, 48, 24, seed + 100);
        const RefitNeurons refit = select_and_refit(fit.equations, held_out.equations, fit.down, 24);
        EXPECT_LE(refit.error, refit.unfitted_error * (1 + 1e-9));
    }
}

TEST(NeuronSelection, BeatsImportanceWithoutRefit) {
    const Expert expert(800, 64, 32, 5);
    const auto by_energy = largest(output_energy(expert.equations.gram().diagonal(), expert.down), 32);
    const RefitNeurons ours = select_and_refit(expert.equations, NormalEquations(64, 32), expert.down, 32);
    const RefitNeurons theirs = refit(expert.equations, NormalEquations(64, 32), expert.down, by_energy);
    EXPECT_LE(ours.error, theirs.error);
    EXPECT_LT(ours.error, 0.7 * theirs.unfitted_error);
}

TEST(NeuronSelection, TwinsAreNotBothKept) {
    at::manual_seed(6);
    const at::Tensor half = at::randn({300, 10});
    const at::Tensor a = at::cat({half, half * 2}, 1);
    NormalEquations equations(20, 5);
    equations.add(a, at::mm(a, at::randn({20, 5})));
    for (const Greedy greedy : {Greedy::forward, Greedy::backward}) {
        const NormalEquations pulled = equations.pulled_to({}, 1e-6);
        std::vector<bool> seen(10, false);
        for (const std::int64_t k : select_neurons(pulled, 10, greedy).kept) {
            EXPECT_FALSE(seen[static_cast<std::size_t>(k % 10)]);
            seen[static_cast<std::size_t>(k % 10)] = true;
        }
    }
}

TEST(NeuronSelection, DeadNeuronsGoFirst) {
    at::manual_seed(7);
    at::Tensor a = at::randn({200, 16});
    for (const std::int64_t dead : {3, 8, 15}) a.select(1, dead).zero_();
    NormalEquations equations(16, 4);
    equations.add(a, at::mm(a, at::randn({16, 4})));
    for (const Greedy greedy : {Greedy::forward, Greedy::backward}) {
        const auto kept = select_neurons(equations.pulled_to({}, 1e-6), 13, greedy).kept;
        EXPECT_EQ(kept, (std::vector<std::int64_t>{0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14}));
    }
}

TEST(NeuronSelection, OutputsMayBeThoseOfALargerLayer) {
    // Candidates that never had a map of their own: the target is another layer's output.
    at::manual_seed(8);
    const at::Tensor a = at::randn({600, 30}), relevant = at::zeros({30, 8});
    relevant.narrow(0, 10, 5).normal_();
    NormalEquations equations(30, 8);
    equations.add(a, at::mm(a, relevant) + 0.01 * at::randn({600, 8}));
    const RefitNeurons refit = select_and_refit(equations, NormalEquations(30, 8), {}, 5);
    EXPECT_EQ(refit.kept, (std::vector<std::int64_t>{10, 11, 12, 13, 14}));
    EXPECT_LT(refit.error, 0.01);
}

TEST(NeuronSelection, ProtectedNeuronsAreNeverRemoved) {
    const Expert expert(300, 30, 12, 9);
    const std::vector<std::int64_t> weakest(select_neurons(expert.equations, 22, Greedy::backward).order);
    const Selection selection = remove_neurons(expert.equations, 8, weakest);
    for (const std::int64_t k : weakest) EXPECT_TRUE(std::ranges::find(selection.kept, k) != selection.kept.end());
    EXPECT_NEAR(selection.errors.back() / expert.equations.energy(), expert.refit_error(selection.kept) / expert.equations.energy(), 1e-6);
    EXPECT_EQ(remove_neurons(expert.equations, 22, {}).order, weakest);
    EXPECT_THROW(remove_neurons(expert.equations, 7, weakest), Error);
}

TEST(NeuronSelection, RefusesImpossibleCounts) {
    EXPECT_THROW(select_neurons(NormalEquations(4, 2), 5), Error);
    EXPECT_THROW(select_neurons(NormalEquations(4, 2), -1), Error);
}

}  // namespace
}  // namespace mixwright::merge
