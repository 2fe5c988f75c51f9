// The learning rate of every step: a warm-up, then constant, linear or cosine decay to a floor.
#pragma once

#include <cstdint>
#include <string_view>

namespace mixwright::train {

enum class Decay { constant, linear, cosine };

struct Schedule {
    Decay decay = Decay::cosine;
    double peak = 0;                 // the learning rate after the warm-up
    double floor = 0;                // where the decay ends
    std::int64_t warmup_steps = 0;   // linear from 0 to peak; the first step already learns
    std::int64_t total_steps = 1;

    /// The rate of step `step` (0 is the first). Continuous at the end of the warm-up; `floor` from total_steps on.
    double at(std::int64_t step) const;
};

std::string_view decay_name(Decay decay) noexcept;

}  // namespace mixwright::train
