// The share of questions that a model answers rightly, and how sure that share is.
#pragma once

#include <cmath>
#include <cstdint>

namespace mixwright::evaluate {

struct Score {
    std::int64_t right = 0, asked = 0;

    double share() const { return asked > 0 ? static_cast<double>(right) / static_cast<double>(asked) : 0; }
    /// Standard error of the share; 0 for fewer than two questions.
    double stderr_share() const { return asked > 1 ? std::sqrt(share() * (1 - share()) / static_cast<double>(asked - 1)) : 0; }
};

}  // namespace mixwright::evaluate
