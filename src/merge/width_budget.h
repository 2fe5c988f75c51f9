// How wide each of several models (here: the experts of a layer) may be, so that their errors add up to as little as a common
// budget allows.
#pragma once

#include <cstdint>
#include <vector>

namespace mixwright::merge {

/// What a model loses by being narrow.
struct WidthCurve {
    std::vector<double> errors;       // [k]: the error with k neurons; only entries from `least` on are read
    std::int64_t least = 0, most = 0; // neurons it may have; what lies between is reached in blocks from `least`
    double cost = 1;                  // of a neuron
};

struct WidthBudget {
    std::vector<std::int64_t> widths;  // least + whole blocks, at most `most`
    double price = 0;                  // error that the last block bought took away, per unit of cost; 0 when all fits
};

/// Buys blocks of `block` neurons, those first that take away most error per cost, while `budget` (beyond what the least widths
/// cost) lasts. Gains that grow along a curve are pooled, so that a dear first step does not hide what comes behind it.
WidthBudget share_width_budget(const std::vector<WidthCurve>& curves, std::int64_t block, double budget);

}  // namespace mixwright::merge
