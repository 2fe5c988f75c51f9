#include "surgery/zip_typed.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "merge/neuron_selection.h"
#include "merge/shared_neurons.h"
#include "merge/width_budget.h"
#include "progress.h"
#include "surgery/neuron_choice.h"
#include "surgery/zip_candidates.h"
#include "surgery/zip_clusters.h"

namespace mixwright::surgery {
namespace {

class TypedLayer {
public:
    explicit TypedLayer(const ZipContext& context)
        : context_(context), experts_(context.spec.num_experts), width_(context.spec.expert_width), block_(window_multiple(width_)),
          budget_(whole_rows(context.options.keep * merge::private_cost * static_cast<double>(experts_ * width_))) {
        // What a neuron does for its partner only a fit can tell.
        if (context.options.method == ZipMethod::typed && context.options.refit) {
            groups_ = paired_experts(context);
        } else {
            for (std::int64_t e = 0; e < experts_; ++e) groups_.push_back({e});
        }
    }

    MadeBlock make() {
        for (std::int64_t e = 0; e < experts_; ++e) {
            choices_.push_back(choice_alone(context_, e));
            check_interrupted();
        }
        const merge::WidthBudget without = allocate();
        const double error_without = total_error(without);
        if (without.price > 0) {
            const std::vector<NeuronChoice> alone = choices_;
            bool any = false;
            for (const auto& group : groups_) {
                any |= group.size() == 2 && share(group[0], group[1], without.price);
                check_interrupted();
            }
            if (any) {
                const merge::WidthBudget with = allocate();
                if (total_error(with) < error_without) return write(with.widths);
                choices_ = alone;
            }
        }
        return write(without.widths);
    }

private:
    // A share that was made by dividing rows gives them back, whatever the division left out.
    static double whole_rows(double rows) { return std::floor(rows + 1e-6); }

    // Error and cost, at `price`, of the best width.
    static double burden(const NeuronChoice& choice, double price) {
        double best = std::numeric_limits<double>::infinity();
        for (std::int64_t k = choice.curve.least; k <= choice.curve.most; ++k)
            best = std::min(best, choice.curve.errors[static_cast<std::size_t>(k)] + price * merge::private_cost * static_cast<double>(k));
        return best + price * merge::shared_cost * static_cast<double>(choice.borrowed());
    }

    // Lets the pair share where that is worth its bytes. Whether it does.
    bool share(std::int64_t a, std::int64_t b, double price) {
        if (starved(context_, a) || starved(context_, b) || 2 * width_ > widest_pair) return false;
        const auto& experts = context_.weights.experts;
        const auto equations = [&](std::int64_t own, std::int64_t other) {
            const Candidates all = candidates(context_, own, &experts[static_cast<std::size_t>(other)]);
            return all.all().pulled_to(all.down.t(), merge::selection_ridge);
        };
        // The second sees the candidates in the order of the first.
        std::vector<std::int64_t> swapped = range(width_, width_);
        for (const std::int64_t k : range(0, width_)) swapped.push_back(k);
        const std::vector<std::int64_t> shared = merge::shared_neurons(equations(a, b), equations(b, a).of(swapped), width_, price, width_);
        if (shared.empty()) return false;
        std::vector<std::int64_t> of_a, of_b;
        for (const std::int64_t k : shared) (k < width_ ? of_a : of_b).push_back(k % width_);
        auto with_a = choice_together(context_, a, b, of_a, of_b), with_b = choice_together(context_, b, a, of_b, of_a);
        if (!with_a || !with_b) return false;
        NeuronChoice &own_a = choices_[static_cast<std::size_t>(a)], &own_b = choices_[static_cast<std::size_t>(b)];
        if (burden(*with_a, price) + burden(*with_b, price) >= burden(own_a, price) + burden(own_b, price)) return false;
        own_a = std::move(*with_a);
        own_b = std::move(*with_b);
        return true;
    }

    merge::WidthBudget allocate() const {
        std::vector<merge::WidthCurve> curves;
        double left = budget_;
        for (const NeuronChoice& choice : choices_) {
            curves.push_back(choice.curve);
            left -= merge::private_cost * static_cast<double>(choice.curve.least) + merge::shared_cost * static_cast<double>(choice.borrowed());
        }
        return merge::share_width_budget(curves, block_, left);
    }

    double total_error(const merge::WidthBudget& budget) const {
        double sum = 0;
        for (std::size_t e = 0; e < choices_.size(); ++e) sum += choices_[e].curve.errors[static_cast<std::size_t>(budget.widths[e])];
        return sum;
    }

    // The rows of a group in order, [private of the first | shared | private of the second], and its members' windows.
    MadeBlock write(const std::vector<std::int64_t>& widths) {
        MadeBlock made{.weights = context_.weights, .zipped = arch::ZippedExperts{.windows = std::vector<arch::ExpertWindow>(static_cast<std::size_t>(experts_))}};
        for (const auto& group : groups_) {
            const auto number = std::ssize(made.zipped->rows);
            const std::vector<std::int64_t> kept_first = own_private(group[0], widths), kept_second = group.size() > 1 ? own_private(group[1], widths) : std::vector<std::int64_t>();
            const NeuronChoice& first = choices_[static_cast<std::size_t>(group[0])];
            const auto common = std::ssize(first.shared) + first.borrowed();
            made.zipped->rows.push_back(std::ssize(kept_first) + common + std::ssize(kept_second));
            const auto place = [&](std::int64_t expert, std::int64_t partner, const std::vector<std::int64_t>& own, std::int64_t first_row, bool leads) {
                made.weights.experts[static_cast<std::size_t>(expert)] = fitted(expert, partner, own, leads);
                made.zipped->windows[static_cast<std::size_t>(expert)] = {number, first_row, std::ssize(own) + common};
            };
            place(group[0], group.size() > 1 ? group[1] : -1, kept_first, 0, true);
            if (group.size() > 1) place(group[1], group[0], kept_second, std::ssize(kept_first), false);
            check_interrupted();
        }
        made.typed = measure(*made.zipped);
        made.note = fmt::format("{:.0f} % dropped, {:.0f} % private, {:.0f} % shared, widths {} to {}", 100 * made.typed->dropped, 100 * made.typed->kept_private,
                                100 * made.typed->shared, std::ranges::min(made.zipped->windows, {}, &arch::ExpertWindow::width).width,
                                std::ranges::max(made.zipped->windows, {}, &arch::ExpertWindow::width).width);
        return made;
    }

    std::vector<std::int64_t> own_private(std::int64_t expert, const std::vector<std::int64_t>& widths) const {
        const NeuronChoice& choice = choices_[static_cast<std::size_t>(expert)];
        std::vector<std::int64_t> own = choice.kept(widths[static_cast<std::size_t>(expert)]), result;
        std::ranges::set_difference(own, choice.shared, std::back_inserter(result));
        return result;
    }

    // The expert in the order of its window; `leads`: it is the first of its group.
    ops::Mlp fitted(std::int64_t expert, std::int64_t partner, const std::vector<std::int64_t>& own_private, bool leads) const {
        const NeuronChoice& choice = choices_[static_cast<std::size_t>(expert)];
        const auto& experts = context_.weights.experts;
        std::optional<ops::Mlp> lent;
        if (choice.borrowed() > 0) lent = neurons_of(experts[static_cast<std::size_t>(partner)], choice.foreign);
        const std::vector<std::int64_t> foreign = range(width_, choice.borrowed());
        std::vector<std::int64_t> order;
        const auto append = [&](const std::vector<std::int64_t>& part) { order.insert(order.end(), part.begin(), part.end()); };
        if (leads) append(own_private);
        append(leads ? choice.shared : foreign);
        append(leads ? foreign : choice.shared);
        if (!leads) append(own_private);

        const Candidates all = candidates(context_, expert, lent ? &*lent : nullptr);
        ops::Mlp result = experts[static_cast<std::size_t>(expert)];
        const auto rows = [&](const at::Tensor& own, const at::Tensor& foreign_rows) {
            return (foreign_rows.defined() ? at::cat({own, foreign_rows}) : own).index_select(0, index_of(order));
        };
        result.gate.weight = rows(result.gate.weight, lent ? lent->gate.weight : at::Tensor());
        result.up.weight = rows(result.up.weight, lent ? lent->up.weight : at::Tensor());
        result.down.weight = all.down.index_select(1, index_of(order)).contiguous();
        if (context_.options.refit) result.down.weight = merge::refit(all.fit(), all.held_out(), all.down, order).down.to(at::kFloat).contiguous();
        return result;
    }

    TypedShares measure(const arch::ZippedExperts& zipped) const {
        const at::Tensor hot = at::one_hot(context_.routed.experts, experts_).sum(1).to(at::kDouble), counts = hot.sum(0);
        const double neurons = static_cast<double>(experts_ * width_), before = 3 * static_cast<double>(width_) * counts.sum().item<double>();
        double kept = 0, shared = 0, read = 0, saved = 0, with_partner = 0;
        for (std::int64_t e = 0; e < experts_; ++e)
            read += 3 * static_cast<double>(zipped.windows[static_cast<std::size_t>(e)].width) * counts[e].item<double>();
        for (const std::int64_t rows : zipped.rows) kept += static_cast<double>(rows);
        for (const auto& group : groups_) {
            if (group.size() < 2) continue;
            const NeuronChoice& first = choices_[static_cast<std::size_t>(group[0])];
            const double both = (hot.select(1, group[0]) * hot.select(1, group[1])).sum().item<double>();
            const auto common = static_cast<double>(std::ssize(first.shared) + first.borrowed());
            shared += common;
            saved += 2 * common * both;
            with_partner += 2 * both;
        }
        const double routed = std::max(1.0, counts.sum().item<double>());
        return {.dropped = 1 - kept / neurons, .kept_private = (kept - shared) / neurons, .shared = shared / neurons, .partner = with_partner / routed,
                .read = before > 0 ? (read - saved) / before : 1, .read_apart = before > 0 ? read / before : 1};
    }

    const ZipContext& context_;
    std::int64_t experts_, width_, block_;
    double budget_;
    merge::Groups groups_;
    std::vector<NeuronChoice> choices_;  // of each expert
};

}  // namespace

io::Json TypedShares::json() const {
    return {{"dropped", dropped}, {"private", kept_private}, {"shared", shared}, {"partner_active", partner}, {"read", read}, {"read_apart", read_apart}};
}

TypedShares TypedShares::from_json(const io::Json& json) {
    return {.dropped = json.at("dropped"), .kept_private = json.at("private"), .shared = json.at("shared"), .partner = json.at("partner_active"),
            .read = json.at("read"), .read_apart = json.at("read_apart")};
}

MadeBlock typed_block(const ZipContext& context) { return TypedLayer(context).make(); }

}  // namespace mixwright::surgery
