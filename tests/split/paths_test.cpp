#include <gmock/gmock.h>

#include <ATen/ATen.h>

#include <set>

#include "split/averaging.h"
#include "split/routing_flow.h"

namespace mixwright::split {
namespace {

using testing::ElementsAre;

LayerRouting layer(std::vector<double> mass, at::Tensor flow = {}) { return {.mass = at::tensor(mass, at::kDouble), .flow = std::move(flow)}; }

TEST(StrongestPath, follows_the_flow_of_tokens_rather_than_the_mass_of_each_layer) {
    // Expert 0 has more mass in both layers, but its tokens part; those of expert 1 stay together.
    const at::Tensor flow = at::tensor({0.02, 0.28, 0.30, 0.40}, at::kDouble).view({2, 2});
    EXPECT_THAT(strongest_path({layer({0.5, 0.5}), layer({0.5, 0.5}, flow)}), ElementsAre(1, 1));
}

TEST(StrongestPath, without_flow_takes_the_heaviest_experts) {
    const at::Tensor flow = at::full({3, 3}, 1.0 / 9, at::kDouble);
    EXPECT_THAT(strongest_path({layer({0.1, 0.7, 0.2}), layer({0.6, 0.1, 0.3}, flow)}), ElementsAre(1, 0));
}

TEST(StrongestPath, does_not_fail_on_experts_nobody_went_to) {
    const at::Tensor flow = at::zeros({2, 2}, at::kDouble);
    EXPECT_EQ(strongest_path({layer({0.0, 1.0}), layer({0.0, 0.0}, flow)})[0], 1);
}

TEST(DisjointPaths, undo_a_permutation_of_the_experts) {
    // Tokens of expert e go on to expert (e + 2) % 4.
    at::Tensor flow = at::full({4, 4}, 0.01, at::kDouble);
    for (int e = 0; e < 4; ++e) flow[e][(e + 2) % 4] = 0.2;
    const auto paths = disjoint_paths({layer({0.25, 0.25, 0.25, 0.25}), layer({0.25, 0.25, 0.25, 0.25}, flow), layer({0.25, 0.25, 0.25, 0.25}, flow)});
    EXPECT_THAT(paths, ElementsAre(ElementsAre(0, 2, 0), ElementsAre(1, 3, 1), ElementsAre(2, 0, 2), ElementsAre(3, 1, 3)));
}

TEST(DisjointPaths, share_no_expert_in_any_layer) {
    at::manual_seed(3);
    std::vector<LayerRouting> routing{layer({0.2, 0.2, 0.2, 0.2, 0.2})};
    for (int l = 0; l < 6; ++l) routing.push_back({.mass = at::rand({5}, at::kDouble), .flow = at::rand({5, 5}, at::kDouble)});
    const auto paths = disjoint_paths(routing);
    for (std::size_t l = 0; l < routing.size(); ++l) {
        std::set<std::int64_t> seen;
        for (const auto& path : paths) seen.insert(path[l]);
        EXPECT_EQ(seen.size(), 5u);
    }
}

TEST(SlerpHalf, keeps_the_length_of_unit_vectors_and_lies_half_way) {
    const at::Tensor a = at::tensor({1.0f, 0.0f, 0.0f}), b = at::tensor({0.0f, 1.0f, 0.0f}), half = slerp_half(a, b);
    EXPECT_NEAR(half.norm().item<double>(), 1.0, 1e-6);
    EXPECT_NEAR(at::dot(half, a).item<double>(), at::dot(half, b).item<double>(), 1e-6);
}

TEST(SlerpHalf, of_parallel_or_empty_tensors_is_their_mean) {
    const at::Tensor a = at::tensor({2.0f, 2.0f});
    EXPECT_TRUE(at::allclose(slerp_half(a, a * 3), a * 2));
    EXPECT_TRUE(at::allclose(slerp_half(a, at::zeros({2})), a / 2));
}

}  // namespace
}  // namespace mixwright::split
