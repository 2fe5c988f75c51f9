#include "merge/matching.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "error.h"

namespace mixwright::merge {
namespace {

at::Tensor checked_weights(const at::Tensor& weights) {
    const at::Tensor symmetric = (weights + weights.t()).to(at::kCPU, at::kDouble).div(2).contiguous();
    if (!symmetric.isfinite().all().item<bool>()) throw Error(ErrorCode::failed, "weights to match experts by are not finite");
    return symmetric;
}

void put_in_order(Groups& groups) {
    for (auto& group : groups) std::ranges::sort(group);
    std::ranges::sort(groups);
}

// Exchanges two items of different groups while the weight inside groups grows.
void exchange(const at::Tensor& weights, Groups& groups) {
    const auto w = weights.accessor<double, 2>();
    const auto tie = [&](std::int64_t item, const std::vector<std::int64_t>& group, std::int64_t but) {
        double sum = 0;
        for (const std::int64_t other : group)
            if (other != item && other != but) sum += w[item][other];
        return sum;
    };
    for (bool better = true; better;) {
        better = false;
        for (std::size_t g = 0; g < groups.size(); ++g)
            for (std::size_t h = g + 1; h < groups.size(); ++h)
                for (std::int64_t& a : groups[g])
                    for (std::int64_t& b : groups[h]) {
                        const double now = tie(a, groups[g], a) + tie(b, groups[h], b);
                        const double then = tie(b, groups[g], a) + tie(a, groups[h], b);
                        if (then > now + 1e-12) std::swap(a, b), better = true;
                    }
    }
}

Groups grow_greedily(const at::Tensor& weights, std::int64_t size) {
    const auto w = weights.accessor<double, 2>();
    std::vector<std::int64_t> free(static_cast<std::size_t>(weights.size(0)));
    std::iota(free.begin(), free.end(), 0);
    Groups groups;
    while (!free.empty()) {
        // The strongest pair left begins a group.
        std::vector<std::int64_t> group{free.front()};
        double strongest = -std::numeric_limits<double>::infinity();
        for (const std::int64_t a : free)
            for (const std::int64_t b : free)
                if (a < b && w[a][b] > strongest) strongest = w[a][b], group = {a, b};
        std::erase_if(free, [&](std::int64_t item) { return std::ranges::find(group, item) != group.end(); });
        while (std::ssize(group) < size && !free.empty()) {
            const auto next = std::ranges::max_element(free, {}, [&](std::int64_t item) {
                double sum = 0;
                for (const std::int64_t member : group) sum += w[item][member];
                return sum;
            });
            group.push_back(*next);
            free.erase(next);
        }
        groups.push_back(std::move(group));
    }
    exchange(weights, groups);
    return groups;
}

// ---- pairs ------------------------------------------------------------------------------------------------------

class PairWeights {
public:
    PairWeights(const at::Tensor& weights, std::size_t size) : size_(size), values_(size * size, 0.0) {
        const auto w = weights.accessor<double, 2>();
        for (std::int64_t a = 0; a < weights.size(0); ++a)
            for (std::int64_t b = 0; b < weights.size(0); ++b) values_[static_cast<std::size_t>(a) * size + static_cast<std::size_t>(b)] = w[a][b];
    }
    std::size_t size() const { return size_; }
    double operator()(std::size_t a, std::size_t b) const { return values_[a * size_ + b]; }

private:
    std::size_t size_;
    std::vector<double> values_;
};

constexpr std::size_t exact_limit = 18;  // items: 2^18 sets

// The best pairing of every set of items: the first item of a set takes each other one in turn.
std::vector<std::size_t> exact_pairing(const PairWeights& w) {
    const std::size_t size = w.size(), sets = std::size_t{1} << size;
    std::vector<double> best(sets, -std::numeric_limits<double>::infinity());
    std::vector<std::uint8_t> partner(sets, 0);
    best[0] = 0;
    const auto first = [](std::size_t set) { return static_cast<std::size_t>(__builtin_ctzll(set)); };
    for (std::size_t set = 1; set < sets; ++set) {
        const std::size_t a = first(set), rest = set & (set - 1);
        for (std::size_t others = rest; others != 0; others &= others - 1) {
            const std::size_t b = first(others);
            const double value = best[rest & ~(std::size_t{1} << b)] + w(a, b);
            if (value > best[set]) best[set] = value, partner[set] = static_cast<std::uint8_t>(b);
        }
    }
    std::vector<std::size_t> mate(size);
    for (std::size_t set = sets - 1; set != 0;) {
        const std::size_t a = first(set), b = partner[set];
        mate[a] = b;
        mate[b] = a;
        set &= ~(std::size_t{1} << a) & ~(std::size_t{1} << b);
    }
    return mate;
}

// The fifteen ways to pair six items.
constexpr std::array<std::array<std::size_t, 6>, 15> pairings_of_six{{
    {0, 1, 2, 3, 4, 5}, {0, 1, 2, 4, 3, 5}, {0, 1, 2, 5, 3, 4}, {0, 2, 1, 3, 4, 5}, {0, 2, 1, 4, 3, 5},
    {0, 2, 1, 5, 3, 4}, {0, 3, 1, 2, 4, 5}, {0, 3, 1, 4, 2, 5}, {0, 3, 1, 5, 2, 4}, {0, 4, 1, 2, 3, 5},
    {0, 4, 1, 3, 2, 5}, {0, 4, 1, 5, 2, 3}, {0, 5, 1, 2, 3, 4}, {0, 5, 1, 3, 2, 4}, {0, 5, 1, 4, 2, 3},
}};

// Strongest pairs first, then every three pairs in their best pairing, until none gains.
std::vector<std::size_t> searched_pairing(const PairWeights& w) {
    struct Edge {
        double weight;
        std::size_t a, b;
    };
    std::vector<Edge> edges;
    for (std::size_t a = 0; a < w.size(); ++a)
        for (std::size_t b = a + 1; b < w.size(); ++b) edges.push_back({w(a, b), a, b});
    std::ranges::stable_sort(edges, std::ranges::greater{}, &Edge::weight);
    std::vector<bool> taken(w.size(), false);
    std::vector<std::array<std::size_t, 2>> pairs;
    for (const Edge& edge : edges)
        if (!taken[edge.a] && !taken[edge.b]) taken[edge.a] = taken[edge.b] = true, pairs.push_back({edge.a, edge.b});

    for (bool better = true; better;) {
        better = false;
        for (std::size_t i = 0; i < pairs.size(); ++i)
            for (std::size_t j = i + 1; j < pairs.size(); ++j)
                for (std::size_t k = j + 1; k < pairs.size(); ++k) {
                    const std::array items{pairs[i][0], pairs[i][1], pairs[j][0], pairs[j][1], pairs[k][0], pairs[k][1]};
                    const auto value = [&](const std::array<std::size_t, 6>& p) {
                        return w(items[p[0]], items[p[1]]) + w(items[p[2]], items[p[3]]) + w(items[p[4]], items[p[5]]);
                    };
                    const auto& best = *std::ranges::max_element(pairings_of_six, {}, value);
                    if (value(best) <= value(pairings_of_six[0]) + 1e-12) continue;
                    pairs[i] = {items[best[0]], items[best[1]]};
                    pairs[j] = {items[best[2]], items[best[3]]};
                    pairs[k] = {items[best[4]], items[best[5]]};
                    better = true;
                }
    }
    std::vector<std::size_t> mate(w.size());
    for (const auto& [a, b] : pairs) mate[a] = b, mate[b] = a;
    return mate;
}

}  // namespace

Groups match_pairs(const at::Tensor& weights) {
    const at::Tensor symmetric = checked_weights(weights);
    const auto count = static_cast<std::size_t>(symmetric.size(0));
    // Someone who weighs nothing makes the number even; who gets them stays alone.
    const PairWeights w(symmetric, count + count % 2);
    const std::vector<std::size_t> mate = w.size() <= exact_limit ? exact_pairing(w) : searched_pairing(w);
    Groups groups;
    for (std::size_t a = 0; a < count; ++a) {
        if (mate[a] >= count)
            groups.push_back({static_cast<std::int64_t>(a)});
        else if (a < mate[a])
            groups.push_back({static_cast<std::int64_t>(a), static_cast<std::int64_t>(mate[a])});
    }
    return groups;
}

Groups match_groups(const at::Tensor& weights, std::int64_t size) {
    const at::Tensor symmetric = checked_weights(weights);
    if (size < 1) throw Error(ErrorCode::usage, "a group has at least one member");
    Groups groups;
    if (size == 1) {
        for (std::int64_t item = 0; item < symmetric.size(0); ++item) groups.push_back({item});
    } else if (size == 2) {
        groups = match_pairs(symmetric);
    } else {
        groups = grow_greedily(symmetric, size);
    }
    put_in_order(groups);
    return groups;
}

Groups random_groups(std::int64_t count, std::int64_t size, std::uint64_t seed) {
    std::vector<std::int64_t> items(static_cast<std::size_t>(count));
    std::iota(items.begin(), items.end(), 0);
    // Fisher-Yates over splitmix64: the standard library's shuffles differ between implementations.
    const auto next = [&seed] {
        std::uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    };
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[next() % i]);
    Groups groups;
    for (std::size_t i = 0; i < items.size(); ++i) {
        if (i % static_cast<std::size_t>(size) == 0) groups.emplace_back();
        groups.back().push_back(items[i]);
    }
    put_in_order(groups);
    return groups;
}

double weight_inside(const at::Tensor& weights, const Groups& groups) {
    const at::Tensor symmetric = checked_weights(weights);
    const auto w = symmetric.accessor<double, 2>();
    double sum = 0;
    for (const auto& group : groups)
        for (std::size_t i = 0; i < group.size(); ++i)
            for (std::size_t j = i + 1; j < group.size(); ++j) sum += w[group[i]][group[j]];
    return sum;
}

}  // namespace mixwright::merge
