#include "train/schedule.h"

#include <gtest/gtest.h>

namespace mixwright::train {
namespace {

TEST(Schedule, warms_up_linearly_and_learns_from_the_first_step) {
    const Schedule schedule{.peak = 1e-3, .warmup_steps = 4, .total_steps = 10};
    EXPECT_DOUBLE_EQ(schedule.at(0), 0.25e-3);
    EXPECT_DOUBLE_EQ(schedule.at(1), 0.5e-3);
    EXPECT_DOUBLE_EQ(schedule.at(3), 1e-3);
    EXPECT_DOUBLE_EQ(schedule.at(4), 1e-3) << "the decay begins where the warm-up ends";
}

TEST(Schedule, cosine_passes_the_middle_half_way) {
    const Schedule schedule{.decay = Decay::cosine, .peak = 1.0, .floor = 0.2, .warmup_steps = 0, .total_steps = 100};
    EXPECT_DOUBLE_EQ(schedule.at(0), 1.0);
    EXPECT_NEAR(schedule.at(50), 0.6, 1e-12);
    EXPECT_NEAR(schedule.at(25), 0.2 + 0.8 * 0.85355339, 1e-8);
    EXPECT_NEAR(schedule.at(100), 0.2, 1e-12);
}

TEST(Schedule, linear_and_constant) {
    const Schedule linear{.decay = Decay::linear, .peak = 1.0, .floor = 0, .warmup_steps = 10, .total_steps = 110};
    EXPECT_DOUBLE_EQ(linear.at(60), 0.5);
    const Schedule constant{.decay = Decay::constant, .peak = 0.5, .warmup_steps = 2, .total_steps = 4};
    EXPECT_DOUBLE_EQ(constant.at(0), 0.25);
    EXPECT_DOUBLE_EQ(constant.at(3), 0.5);
}

TEST(Schedule, stays_at_the_floor_past_its_end) {
    for (const Decay decay : {Decay::linear, Decay::cosine}) {
        const Schedule schedule{.decay = decay, .peak = 1.0, .floor = 0.1, .warmup_steps = 5, .total_steps = 5};
        EXPECT_NEAR(schedule.at(1000), 0.1, 1e-12) << decay_name(decay);
    }
}

}  // namespace
}  // namespace mixwright::train
