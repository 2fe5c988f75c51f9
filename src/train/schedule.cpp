#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mixwright::train {

double Schedule::at(std::int64_t step) const {
    if (step < warmup_steps) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    if (decay == Decay::constant) return peak;
    const double decay_steps = static_cast<double>(std::max<std::int64_t>(total_steps - warmup_steps, 1));
    const double progress = std::min(static_cast<double>(step - warmup_steps) / decay_steps, 1.0);
    const double share = decay == Decay::linear ? 1 - progress : 0.5 * (1 + std::cos(std::numbers::pi * progress));
    return floor + (peak - floor) * share;
}

std::string_view decay_name(Decay decay) noexcept {
    switch (decay) {
        case Decay::constant: return "constant";
        case Decay::linear: return "linear";
        case Decay::cosine: return "cosine";
    }
    return {};
}

}  // namespace mixwright::train
