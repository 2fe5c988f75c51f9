#include "merge/zipit.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "error.h"

namespace mixwright::merge {
namespace {

using GroupList = std::vector<std::vector<std::int64_t>>;

// The algorithm as the paper tells it, a full search for every merge.
GroupList plain_zipit(const at::Tensor& similarity, std::int64_t count, const ZipItOptions& options) {
    const auto size = static_cast<std::size_t>(similarity.size(0)), models = static_cast<std::size_t>(options.models);
    const at::Tensor f = similarity.to(at::kFloat).contiguous();
    std::vector<std::vector<float>> s(size, std::vector<float>(size));
    for (std::size_t i = 0; i < size; ++i)
        for (std::size_t j = 0; j < size; ++j) s[i][j] = f.const_data_ptr<float>()[i * size + j];
    GroupList groups;
    std::vector<std::size_t> model;
    for (std::size_t i = 0; i < size; ++i) groups.push_back({static_cast<std::int64_t>(i)}), model.push_back(i / (size / models));
    std::vector<int> budget(models, static_cast<int>(static_cast<double>((static_cast<std::int64_t>(size) - count) / options.models) * options.beta + 1e-4));
    constexpr float never = -std::numeric_limits<float>::infinity();
    const auto close = [&](std::size_t m) {
        for (std::size_t i = 0; i < groups.size(); ++i)
            for (std::size_t j = 0; j < groups.size(); ++j)
                if (model[i] == m && model[j] == m) s[i][j] = never;
    };
    for (std::size_t m = 0; m < models; ++m)
        if (budget[m] <= 0) close(m);
    while (std::ssize(groups) > count) {
        float best = never;
        std::size_t row = 0, column = 0;
        for (std::size_t i = 0; i < groups.size(); ++i)
            for (std::size_t j = i + 1; j < groups.size(); ++j)
                if (s[i][j] > best) best = s[i][j], row = i, column = j;
        groups[row].insert(groups[row].end(), groups[column].begin(), groups[column].end());
        std::ranges::sort(groups[row]);
        for (std::size_t j = 0; j < groups.size(); ++j) s[row][j] = s[j][row] = std::min(s[row][j], s[column][j]) * static_cast<float>(options.alpha);
        if (model[row] == model[column] && --budget[model[row]] <= 0) close(model[row]);
        const auto erase = [&](auto& list) { list.erase(list.begin() + static_cast<std::ptrdiff_t>(column)); };
        erase(groups);
        erase(model);
        erase(s);
        for (auto& line : s) erase(line);
    }
    return groups;
}

at::Tensor random_similarity(std::int64_t size, std::uint64_t seed) {
    at::manual_seed(seed);
    const at::Tensor z = at::randn({3 * size, size});
    return correlation(at::mm(z.t(), z).to(at::kDouble) / static_cast<double>(3 * size), z.mean(0).to(at::kDouble));
}

constexpr ZipItOptions settings[] = {{2, 0.3, 0.125}, {2, 1e-4, 0.075}, {2, 1.0, 1.0}, {2, 0.5, 0.0}, {4, 0.3, 0.2}, {1, 0.9, 1.0}};

TEST(ZipIt, MergesAsTheFullSearchDoes) {
    for (const std::int64_t size : {8, 24, 64})
        for (const ZipItOptions& options : settings)
            for (std::uint64_t seed = 0; seed < 4; ++seed)
                for (const std::int64_t count : {size / 2, size - size / 4}) {
                    if (options.models == 1 && count < size / 2) continue;
                    const at::Tensor similarity = random_similarity(size, seed);
                    EXPECT_EQ(zipit_groups(similarity, count, options), plain_zipit(similarity, count, options))
                        << size << " features to " << count << ", alpha " << options.alpha << ", beta " << options.beta << ", seed " << seed;
                }
}

TEST(ZipIt, MergesAsTheFullSearchDoesOnFullExpertPairs) {
    for (const std::int64_t size : {256, 512})
        for (const ZipItOptions& options : settings) {
            const at::Tensor similarity = random_similarity(size, 11);
            EXPECT_EQ(zipit_groups(similarity, size / 2, options), plain_zipit(similarity, size / 2, options))
                << size << " features, alpha " << options.alpha << ", beta " << options.beta << ", models " << options.models;
        }
}

TEST(ZipIt, EqualSimilaritiesGoInOrder) {
    EXPECT_EQ(zipit_groups(at::ones({6, 6}), 3, {2, 1.0, 1.0}), plain_zipit(at::ones({6, 6}), 3, {2, 1.0, 1.0}));
}

TEST(ZipIt, TwinsMeet) {
    at::manual_seed(2);
    const at::Tensor z = at::randn({200, 10}), both = at::cat({z, z.flip({1})}, 1);
    const auto groups = zipit_groups(correlation(at::mm(both.t(), both) / 200, both.mean(0)), 10, {});
    for (const auto& group : groups) {
        ASSERT_EQ(group.size(), 2u);
        EXPECT_EQ(group[0] + group[1], 19);
    }
}

TEST(ZipIt, AlphaOfZeroMergesEachFeatureOnce) {
    for (const auto& group : zipit_groups(random_similarity(32, 3), 16, {2, 0.0, 0.0})) EXPECT_EQ(group.size(), 2u);
    EXPECT_THROW(zipit_groups(random_similarity(32, 3), 15, {2, 0.0, 0.0}), Error);
}

TEST(ZipIt, UnmergeOfMergeIsTheMeanOfTheGroup) {
    const auto groups = zipit_groups(random_similarity(20, 4), 12, {});
    const at::Tensor merge = merge_matrix(groups, 20), unmerge = unmerge_matrix(groups, 20);
    EXPECT_TRUE(at::allclose(at::mm(merge, unmerge), at::eye(12, at::kDouble)));
    EXPECT_TRUE(at::allclose(unmerge.sum(1), at::ones({20}, at::kDouble)));
    EXPECT_TRUE(at::allclose(merge.sum(1), at::ones({12}, at::kDouble)));
}

TEST(ZipIt, AFeatureThatNeverMovesCorrelatesWithNothing) {
    const at::Tensor moment = at::eye(3, at::kDouble) * at::tensor({1.0, 0.0, 2.0}, at::kDouble);
    const at::Tensor c = correlation(moment, at::zeros({3}, at::kDouble));
    EXPECT_TRUE(c.isfinite().all().item<bool>());
    EXPECT_EQ(c[1].abs().sum().item<double>(), 0);
}

TEST(ZipIt, RefusesUnequalModels) { EXPECT_THROW(zipit_groups(random_similarity(9, 1), 4, {}), Error); }

}  // namespace
}  // namespace mixwright::merge
