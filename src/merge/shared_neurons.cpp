#include "merge/shared_neurons.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "merge/pivoting.h"

namespace mixwright::merge {
namespace {

// One of the two: its residual, and how many columns it has.
class Member {
public:
    explicit Member(const NormalEquations& equations)
        : pivoting_(equations.gram().clone(), at::mm(equations.cross(), equations.cross().t())), residual_(equations.energy()),
          rows_(static_cast<double>(std::max<std::int64_t>(1, equations.rows()))) {}

    double own_gain(std::size_t k) const { return pivoting_.usable(k) ? pivoting_.worth(k) : 0; }
    double foreign_gain(std::size_t k) const { return std::max(0.0, own_gain(k) - 2 * residual_ / rows_); }
    std::int64_t width() const { return width_; }

    void take(std::size_t k) {
        if (pivoting_.usable(k)) {
            residual_ = std::max(0.0, residual_ - pivoting_.worth(k));
            pivoting_.take(k);
        }
        ++width_;
    }

private:
    Pivoting pivoting_;
    double residual_, rows_;
    std::int64_t width_ = 0;
};

enum class Kept : std::uint8_t { no, by_owner, by_both };

}  // namespace

std::vector<std::int64_t> shared_neurons(const NormalEquations& a, const NormalEquations& b, std::int64_t own_a, double price, std::int64_t widest) {
    std::array members{Member(a), Member(b)};
    const auto count = static_cast<std::size_t>(a.features());
    std::vector<Kept> kept(count, Kept::no);
    for (;;) {
        std::size_t best = 0;
        Kept as = Kept::no;
        double best_rate = price;
        const auto offer = [&](std::size_t k, Kept type, double gain, double cost) {
            if (gain > best_rate * cost) best = k, as = type, best_rate = gain / cost;
        };
        for (std::size_t k = 0; k < count; ++k) {
            if (kept[k] == Kept::by_both) continue;
            const std::size_t owner = static_cast<std::int64_t>(k) < own_a ? 0 : 1;
            const bool other_has_room = members[1 - owner].width() < widest;
            const double foreign = other_has_room ? members[1 - owner].foreign_gain(k) : 0;
            if (kept[k] == Kept::by_owner) {
                offer(k, Kept::by_both, foreign, shared_cost);
            } else if (members[owner].width() < widest) {
                const double own = members[owner].own_gain(k);
                offer(k, Kept::by_owner, own, private_cost);
                if (foreign > 0) offer(k, Kept::by_both, own + foreign, private_cost + shared_cost);
            }
        }
        if (as == Kept::no) break;
        const std::size_t owner = static_cast<std::int64_t>(best) < own_a ? 0 : 1;
        if (kept[best] == Kept::no) members[owner].take(best);
        if (as == Kept::by_both) members[1 - owner].take(best);
        kept[best] = as;
    }
    std::vector<std::int64_t> shared;
    for (std::size_t k = 0; k < count; ++k)
        if (kept[k] == Kept::by_both) shared.push_back(static_cast<std::int64_t>(k));
    return shared;
}

}  // namespace mixwright::merge
