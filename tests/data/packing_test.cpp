#include "data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace mixwright::data {
namespace {

PackedSequences packed(std::size_t num_tokens, std::size_t length) {
    TokenStream stream;
    stream.ids.resize(num_tokens);
    std::iota(stream.ids.begin(), stream.ids.end(), 0);
    for (std::size_t i = 0; i < num_tokens; ++i) stream.learn.push_back(i % 3 == 0);
    return PackedSequences(std::move(stream), length);
}

TEST(Packing, predicts_every_token_but_the_first_once) {
    const PackedSequences sequences = packed(9, 4);
    ASSERT_EQ(sequences.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i)
        for (std::size_t j = 0; j < 4; ++j) {
            const auto position = static_cast<std::int32_t>(i * 4 + j);
            EXPECT_EQ(sequences.inputs(i)[j], position);
            EXPECT_EQ(sequences.targets(i)[j], position + 1);
            EXPECT_EQ(sequences.learn(i)[j], (position + 1) % 3 == 0) << "the mask is that of the target";
        }
    EXPECT_EQ(sequences.num_learnt(), 2u);
}

TEST(Packing, drops_the_rest_and_needs_a_target_for_every_input) {
    EXPECT_EQ(packed(8, 4).size(), 1u);
    EXPECT_EQ(packed(12, 4).size(), 2u);
    EXPECT_EQ(packed(4, 4).size(), 0u);
    EXPECT_EQ(packed(0, 4).size(), 0u);
}

TEST(Packing, holds_out_an_even_share_once) {
    PackedSequences rest = packed(401, 4);
    const PackedSequences held_out = rest.take_held_out(0.1);
    EXPECT_EQ(held_out.size(), 10u);
    EXPECT_EQ(rest.size(), 90u);
    std::vector<std::int32_t> firsts;
    for (std::size_t i = 0; i < rest.size(); ++i) firsts.push_back(rest.inputs(i)[0]);
    for (std::size_t i = 0; i < held_out.size(); ++i) {
        EXPECT_EQ(held_out.inputs(i)[0], static_cast<std::int32_t>(40 * i + 36));
        firsts.push_back(held_out.inputs(i)[0]);
    }
    std::ranges::sort(firsts);
    EXPECT_EQ(std::ranges::adjacent_find(firsts), firsts.end());
}

TEST(Packing, leaves_a_single_sequence_to_training) {
    PackedSequences one = packed(5, 4);
    EXPECT_EQ(one.take_held_out(0.5).size(), 0u);
    EXPECT_EQ(one.size(), 1u);
}

TEST(Packing, shuffles_by_seed_and_epoch_alone) {
    const auto order = shuffled_order(100, 7, 3);
    EXPECT_EQ(order, shuffled_order(100, 7, 3));
    EXPECT_NE(order, shuffled_order(100, 7, 4));
    EXPECT_NE(order, shuffled_order(100, 8, 3));
    auto sorted = order;
    std::ranges::sort(sorted);
    for (std::uint32_t i = 0; i < 100; ++i) EXPECT_EQ(sorted[i], i);
}

}  // namespace
}  // namespace mixwright::data
