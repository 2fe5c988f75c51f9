#include "merge/matching.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "merge/align.h"

namespace mixwright::merge {
namespace {

at::Tensor random_weights(std::int64_t count, std::uint64_t seed) {
    at::manual_seed(seed);
    const at::Tensor w = at::rand({count, count}, at::kDouble);
    return w + w.t();
}

double best_pairing(const at::Tensor& weights, std::vector<std::int64_t> free) {
    if (free.size() < 2) return 0;
    const std::int64_t a = free.back();
    free.pop_back();
    double best = -1e300;
    for (std::size_t i = 0; i < free.size(); ++i) {
        std::vector<std::int64_t> rest = free;
        rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(i));
        best = std::max(best, weights[a][free[i]].item<double>() + best_pairing(weights, rest));
    }
    if (free.size() % 2 == 0) best = std::max(best, best_pairing(weights, free));  // odd: `a` stays alone
    return best;
}

void expect_partition(const Groups& groups, std::int64_t count, std::size_t size) {
    std::vector<std::int64_t> items;
    for (const auto& group : groups) {
        EXPECT_LE(group.size(), size);
        items.insert(items.end(), group.begin(), group.end());
    }
    std::ranges::sort(items);
    ASSERT_EQ(std::ssize(items), count);
    for (std::int64_t i = 0; i < count; ++i) EXPECT_EQ(items[static_cast<std::size_t>(i)], i);
}

TEST(Matching, PairsAreTheBestThereAre) {
    for (std::int64_t count = 1; count <= 8; ++count)
        for (std::uint64_t seed = 0; seed < 25; ++seed) {
            const at::Tensor weights = random_weights(count, seed) - (seed % 3 == 0 ? 0.8 : 0.0);
            const Groups groups = match_pairs(weights);
            expect_partition(groups, count, 2);
            EXPECT_EQ(std::ssize(groups), (count + 1) / 2);
            std::vector<std::int64_t> items;
            for (std::int64_t i = 0; i < count; ++i) items.push_back(i);
            EXPECT_NEAR(weight_inside(weights, groups), best_pairing(weights, items), 1e-5) << count << " items, seed " << seed;
        }
}

TEST(Matching, BeyondTheExactSizeIsNearTheBest) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
        // A planted pairing that greed alone misses: the strongest pair is not in it.
        at::Tensor weights = 0.5 * random_weights(40, seed);
        for (std::int64_t i = 0; i < 40; i += 2) weights[i][i + 1] = weights[i + 1][i] = 3.0;
        weights[1][2] = weights[2][1] = 3.5;
        EXPECT_NEAR(weight_inside(weights, match_pairs(weights)), 60.0, 1e-9);
    }
}

TEST(Matching, ManyExpertsAndEqualWeights) {
    for (const std::int64_t count : {64, 129}) expect_partition(match_pairs(random_weights(count, 1)), count, 2);
    expect_partition(match_pairs(at::ones({16, 16})), 16, 2);
    expect_partition(match_pairs(at::zeros({7, 7})), 7, 2);
}

TEST(Matching, PlantedGroupsAreFound) {
    for (const std::int64_t size : {2, 3, 4, 8}) {
        at::manual_seed(3);
        const std::int64_t count = 24;
        const at::Tensor order = at::randperm(count);
        at::Tensor weights = 0.1 * random_weights(count, 5);
        for (std::int64_t i = 0; i < count; ++i)
            for (std::int64_t j = 0; j < count; ++j)
                if (i / size == j / size) weights[order[i].item<std::int64_t>()][order[j].item<std::int64_t>()] += 1;
        const Groups groups = match_groups(weights, size);
        expect_partition(groups, count, static_cast<std::size_t>(size));
        for (const auto& group : groups) {
            ASSERT_EQ(std::ssize(group), size);
            for (const std::int64_t member : group) EXPECT_GT(weights[group[0]][member].item<double>() + (member == group[0]), 0.9);
        }
    }
}

TEST(Matching, BeatsRandomGroups) {
    const at::Tensor weights = random_weights(32, 9);
    for (const std::int64_t size : {2, 3, 4, 8})
        EXPECT_GT(weight_inside(weights, match_groups(weights, size)), weight_inside(weights, random_groups(32, size, 1)));
}

TEST(Matching, RandomGroupsDependOnTheSeedAlone) {
    EXPECT_EQ(random_groups(16, 2, 5), random_groups(16, 2, 5));
    EXPECT_NE(random_groups(16, 2, 5), random_groups(16, 2, 6));
    expect_partition(random_groups(17, 4, 1), 17, 4);
}

TEST(Align, AssignmentsAreTheCheapestThereAre) {
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
        at::manual_seed(seed);
        const std::int64_t size = 1 + static_cast<std::int64_t>(seed % 7);
        const at::Tensor cost = at::randn({size, size}, at::kDouble);
        const auto total = [&](const std::vector<std::int64_t>& partner) {
            double sum = 0;
            for (std::int64_t i = 0; i < size; ++i) sum += cost[i][partner[static_cast<std::size_t>(i)]].item<double>();
            return sum;
        };
        std::vector<std::int64_t> permutation;
        for (std::int64_t i = 0; i < size; ++i) permutation.push_back(i);
        double best = total(permutation);
        while (std::ranges::next_permutation(permutation).found) best = std::min(best, total(permutation));
        EXPECT_NEAR(total(assign(cost)), best, 1e-9);
    }
}

TEST(Align, FindsAPermutation) {
    at::manual_seed(4);
    const at::Tensor reference = at::randn({300, 40}), order = at::randperm(300);
    const at::Tensor shuffled = reference.index_select(0, order) * (1 + at::rand({300, 1}));
    const auto partner = align(reference, shuffled);
    for (std::int64_t k = 0; k < 300; ++k) EXPECT_EQ(order[partner[static_cast<std::size_t>(k)]].item<std::int64_t>(), k);
}

}  // namespace
}  // namespace mixwright::merge
