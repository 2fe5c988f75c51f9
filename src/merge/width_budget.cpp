#include "merge/width_budget.h"

#include <algorithm>

namespace mixwright::merge {
namespace {

struct Block {
    double rate;          // error taken away per cost, pooled
    std::size_t curve;
    std::int64_t number;  // along its curve
};

// Gains of the blocks of one curve, made to fall along it (pool adjacent violators).
std::vector<double> falling_gains(const WidthCurve& curve, std::int64_t block) {
    struct Pool {
        double gain;
        std::int64_t blocks;
    };
    std::vector<Pool> pools;
    for (std::int64_t k = curve.least; k + block <= curve.most; k += block) {
        pools.push_back({curve.errors[static_cast<std::size_t>(k)] - curve.errors[static_cast<std::size_t>(k + block)], 1});
        while (pools.size() > 1) {
            const Pool last = pools.back();
            Pool& before = pools[pools.size() - 2];
            if (last.gain * static_cast<double>(before.blocks) < before.gain * static_cast<double>(last.blocks)) break;
            before.gain += last.gain;
            before.blocks += last.blocks;
            pools.pop_back();
        }
    }
    std::vector<double> gains;
    for (const Pool& pool : pools) gains.insert(gains.end(), static_cast<std::size_t>(pool.blocks), pool.gain / static_cast<double>(pool.blocks));
    return gains;
}

}  // namespace

WidthBudget share_width_budget(const std::vector<WidthCurve>& curves, std::int64_t block, double budget) {
    std::vector<Block> blocks;
    WidthBudget result;
    for (std::size_t c = 0; c < curves.size(); ++c) {
        result.widths.push_back(curves[c].least);
        const std::vector<double> gains = falling_gains(curves[c], block);
        for (std::size_t i = 0; i < gains.size(); ++i)
            blocks.push_back({gains[i] / (curves[c].cost * static_cast<double>(block)), c, static_cast<std::int64_t>(i)});
    }
    // Along a curve the order stays: rates fall, and equal ones are told apart by their numbers.
    std::ranges::stable_sort(blocks, [](const Block& x, const Block& y) { return x.rate != y.rate ? x.rate > y.rate : x.number < y.number; });
    for (const Block& b : blocks) {
        const double cost = curves[b.curve].cost * static_cast<double>(block);
        if (cost > budget) {
            result.price = b.rate;
            break;
        }
        budget -= cost;
        result.widths[b.curve] += block;
    }
    return result;
}

}  // namespace mixwright::merge
