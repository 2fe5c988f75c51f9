#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "split/expert_neurons.h"
#include "split/token_clusters.h"

namespace mixwright::split {
namespace {

TEST(SphericalClusters, finds_directions_whatever_the_lengths) {
    at::manual_seed(2);
    const at::Tensor directions = at::eye(3).repeat_interleave(20, 0);
    const at::Tensor points = (directions + 0.05 * at::randn({60, 3})) * (0.1 + at::rand({60, 1}) * 10);
    const at::Tensor clusters = spherical_clusters(points, 3).view({3, 20});
    EXPECT_TRUE(clusters.eq(clusters.select(1, 0).unsqueeze(1)).all().item<bool>());
    EXPECT_EQ(std::get<0>(at::_unique(clusters.select(1, 0))).numel(), 3);
}

TEST(SphericalClusters, are_the_same_every_time) {
    at::manual_seed(4);
    const at::Tensor points = at::randn({50, 8});
    EXPECT_TRUE(spherical_clusters(points, 4).equal(spherical_clusters(points, 4)));
}

TEST(SphericalClusters, do_not_fail_on_rows_that_coincide) { EXPECT_EQ(spherical_clusters(at::ones({5, 2}), 3).numel(), 5); }

// Two experts of two neurons: the first expert's are large, but no token goes there.
TEST(CandidateNeurons, are_those_that_bring_energy_to_the_gated_output) {
    model::MoeWeights weights;
    for (const double size : {5.0, 1.0}) {
        ops::Mlp expert;
        expert.gate.weight = at::full({2, 3}, size);
        expert.up.weight = at::full({2, 3}, size);
        expert.down.weight = at::full({3, 2}, size);
        weights.experts.push_back(expert);
    }
    const SeenBatch batch{.input = at::ones({4, 3}), .routing = {.weights = at::ones({4, 1}), .experts = at::ones({4, 1}, at::kLong)}};
    const Neurons chosen = candidate_neurons(weights, {batch}, 2);
    EXPECT_TRUE(chosen.expert.equal(at::ones({2}, at::kLong)));
    EXPECT_TRUE(chosen.down.equal(weights.experts[1].down.weight));
    EXPECT_EQ(candidate_neurons(weights, {batch}, 4).expert.numel(), 4);

    // A token that counts nothing brings none.
    SeenBatch weighed{.input = at::ones({2, 3}), .routing = {.weights = at::ones({2, 1}), .experts = at::tensor({0L, 1L}, at::kLong).unsqueeze(1)}, .importance = at::tensor({0.0f, 1.0f})};
    EXPECT_TRUE(candidate_neurons(weights, {weighed}, 2).expert.equal(at::ones({2}, at::kLong)));
    EXPECT_TRUE(mean_weights(weights, {weighed}).narrow(0, 0, 2).equal(at::tensor({0.0, 1.0}, at::kDouble)));
}

}  // namespace
}  // namespace mixwright::split
