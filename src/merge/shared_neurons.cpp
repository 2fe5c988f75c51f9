#include "merge/shared_neurons.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <optional>

#include "merge/pivoting.h"

namespace mixwright::merge {
namespace {

// One of the two: its residual, and how many columns it has.
class Member {
public:
    explicit Member(const NormalEquations& equations)
        : pivoting_(equations.gram(), equations.cross().clone()), residual_(equations.energy()),
          rows_(static_cast<double>(std::max<std::int64_t>(1, equations.rows()))) {}

    Pivoting& pivoting() { return pivoting_; }
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

// The best that can be done with a candidate now.
struct Offer {
    Kept as;
    double rate;  // gain per cost
};

// The greedy choice, as far as it has come.
class Sharing {
public:
    Sharing(const NormalEquations& a, const NormalEquations& b, std::int64_t own_a, double price, std::int64_t widest)
        : members_{Member(a), Member(b)}, kept_(static_cast<std::size_t>(a.features()), Kept::no), own_a_(own_a), price_(price), widest_(widest) {}

    // Until nothing is worth its price: in panels, see Pivoting.
    void run() {
        const auto rate = [&](std::size_t k) {
            const std::optional<Offer> best = offer(k);
            return best ? std::optional(best->rate) : std::nullopt;
        };
        for (bool going = true; going;) {
            const std::vector<std::int64_t> open = foremost(kept_.size(), rate);
            for (Member& member : members_) member.pivoting().open(open);
            going = take_best(open);
            for (Member& member : members_) member.pivoting().close();
        }
    }

    std::vector<std::int64_t> shared() const {
        std::vector<std::int64_t> shared;
        for (std::size_t k = 0; k < kept_.size(); ++k)
            if (kept_[k] == Kept::by_both) shared.push_back(static_cast<std::int64_t>(k));
        return shared;
    }

private:
    std::size_t owner(std::size_t k) const { return static_cast<std::int64_t>(k) < own_a_ ? 0 : 1; }

    std::optional<Offer> offer(std::size_t k) const {
        std::optional<Offer> best;
        const auto consider = [&](Kept as, double gain, double cost) {
            if (gain > (best ? best->rate : price_) * cost) best = {as, gain / cost};
        };
        const Member &own = members_[owner(k)], &other = members_[1 - owner(k)];
        const double foreign = kept_[k] != Kept::by_both && other.width() < widest_ ? other.foreign_gain(k) : 0;
        if (kept_[k] == Kept::by_owner) {
            consider(Kept::by_both, foreign, shared_cost);
        } else if (kept_[k] == Kept::no && own.width() < widest_) {
            consider(Kept::by_owner, own.own_gain(k), private_cost);
            if (foreign > 0) consider(Kept::by_both, own.own_gain(k) + foreign, private_cost + shared_cost);
        }
        return best;
    }

    // Takes the best offers of a panel; whether there were any.
    bool take_best(const std::vector<std::int64_t>& open) {
        bool any = false;
        while (!members_[0].pivoting().full() && !members_[1].pivoting().full()) {
            std::optional<Offer> best;
            std::size_t which = 0;
            for (const std::int64_t candidate : open) {
                const auto k = static_cast<std::size_t>(candidate);
                if (const std::optional<Offer> o = offer(k); o && (!best || o->rate > best->rate)) best = o, which = k;
            }
            if (!best) break;
            if (kept_[which] == Kept::no) members_[owner(which)].take(which);
            if (best->as == Kept::by_both) members_[1 - owner(which)].take(which);
            kept_[which] = best->as;
            any = true;
        }
        return any;
    }

    std::array<Member, 2> members_;
    std::vector<Kept> kept_;
    std::int64_t own_a_;
    double price_;
    std::int64_t widest_;
};

}  // namespace

std::vector<std::int64_t> shared_neurons(const NormalEquations& a, const NormalEquations& b, std::int64_t own_a, double price, std::int64_t widest) {
    Sharing sharing(a, b, own_a, price, widest);
    sharing.run();
    return sharing.shared();
}

}  // namespace mixwright::merge
