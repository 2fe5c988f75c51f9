#include "merge/neuron_selection.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "error.h"
#include "merge/pivoting.h"

namespace mixwright::merge {
namespace {

std::vector<std::int64_t> indices_where(std::int64_t size, const auto& keep) {
    std::vector<std::int64_t> kept;
    for (std::int64_t k = 0; k < size; ++k)
        if (keep(static_cast<std::size_t>(k))) kept.push_back(k);
    return kept;
}

// Takes up to `count` pivots, each the one with the highest score; nothing scores a candidate that may not be taken.
// Calls record(k, worth) before each.
void take_best(Pivoting& pivoting, std::size_t size, std::int64_t count, const auto& score, const auto& record) {
    while (count > 0) {
        pivoting.open(foremost(size, score));
        const std::int64_t before = count;
        for (; count > 0 && !pivoting.full(); --count) {
            std::optional<std::size_t> best;
            double highest = 0;
            for (const std::int64_t open : pivoting.opened()) {
                const auto k = static_cast<std::size_t>(open);
                if (const std::optional<double> s = score(k); s && (!best || *s > highest)) best = k, highest = *s;
            }
            if (!best) break;
            record(*best, pivoting.worth(*best));
            pivoting.take(*best);
        }
        pivoting.close();
        if (count == before) break;
    }
}

Selection forward(const NormalEquations& equations, std::int64_t count) {
    Pivoting pivoting(equations.gram(), equations.cross().clone());
    const auto size = static_cast<std::size_t>(equations.features());
    Selection selection;
    selection.errors.push_back(equations.energy());
    std::vector<bool> chosen(size, false);
    const auto record = [&](std::size_t k, double gain) {
        chosen[k] = true;
        selection.order.push_back(static_cast<std::int64_t>(k));
        selection.errors.push_back(std::max(0.0, selection.errors.back() - gain));
    };
    take_best(pivoting, size, count, [&](std::size_t k) { return pivoting.usable(k) ? std::optional(pivoting.worth(k)) : std::nullopt; }, record);
    for (std::size_t k = 0; k < size && std::ssize(selection.order) < count; ++k)
        if (!chosen[k]) record(k, 0);  // combinations of the chosen
    selection.kept = indices_where(equations.features(), [&](std::size_t k) { return static_cast<bool>(chosen[k]); });
    return selection;
}

Selection backward(const NormalEquations& equations, std::int64_t count, std::span<const std::int64_t> always) {
    const at::Tensor factor = jittered_cholesky(equations.gram());
    const at::Tensor maps = at::cholesky_solve(equations.cross(), factor);
    const auto size = static_cast<std::size_t>(equations.features());
    Selection selection;
    selection.errors.push_back(equations.squared_error(maps));
    std::vector<bool> stays(size, false);
    for (const std::int64_t k : always) stays[static_cast<std::size_t>(k)] = true;
    Pivoting pivoting(at::cholesky_inverse(factor), maps);
    const auto record = [&](std::size_t k, double loss) {
        selection.order.push_back(static_cast<std::int64_t>(k));
        selection.errors.push_back(selection.errors.back() + loss);
    };
    take_best(pivoting, size, equations.features() - count,
              [&](std::size_t k) { return pivoting.taken(k) || stays[k] ? std::nullopt : std::optional(-pivoting.worth(k)); }, record);
    selection.kept = indices_where(equations.features(), [&](std::size_t k) { return !pivoting.taken(k); });
    return selection;
}

at::Tensor prior_of(const at::Tensor& down) { return down.defined() ? down.t() : at::Tensor(); }

}  // namespace

Selection select_neurons(const NormalEquations& equations, std::int64_t count, Greedy greedy) {
    const std::int64_t size = equations.features();
    if (count < 0 || count > size) throw Error(ErrorCode::usage, fmt::format("cannot keep {} of {} neurons", count, size));
    if (greedy == Greedy::automatic) greedy = count > size / 2 ? Greedy::backward : Greedy::forward;
    return greedy == Greedy::forward ? forward(equations, count) : backward(equations, count, {});
}

Selection remove_neurons(const NormalEquations& equations, std::int64_t count, std::span<const std::int64_t> always) {
    if (count < std::ssize(always) || count > equations.features())
        throw Error(ErrorCode::usage, fmt::format("cannot keep {} of {} neurons, {} of which always stay", count, equations.features(), always.size()));
    return backward(equations, count, always);
}

std::vector<std::int64_t> largest(const at::Tensor& scores, std::int64_t count) {
    const at::Tensor order = std::get<1>(scores.sort(/*stable=*/true, 0, /*descending=*/true)).narrow(0, 0, count).to(at::kCPU).contiguous();
    std::vector<std::int64_t> kept(order.const_data_ptr<std::int64_t>(), order.const_data_ptr<std::int64_t>() + count);
    std::ranges::sort(kept);
    return kept;
}

at::Tensor output_energy(const at::Tensor& gram_diagonal, const at::Tensor& down) {
    return gram_diagonal.to(at::kDouble) * down.to(at::kDouble).square().sum(0);
}

RefitNeurons refit(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& down, std::vector<std::int64_t> kept) {
    const NormalEquations fit_kept = fit.of(kept), held_out_kept = held_out.of(kept);
    at::Tensor prior;
    if (down.defined()) prior = prior_of(down).index_select(0, at::tensor(kept, at::kLong));
    const RidgeFit ridge = fit_ridge(fit_kept, held_out_kept, prior);
    RefitNeurons result{.kept = std::move(kept),
                        .down = ridge.solution.t().contiguous(),
                        .lambda = ridge.lambda,
                        .error = ridge.error,
                        .held_out_error = ridge.held_out_error,
                        .unfitted_error = 1};
    if (prior.defined()) {
        NormalEquations both = fit_kept;
        both.add(held_out_kept);
        result.unfitted_error = both.relative_error(prior);
    }
    return result;
}

RefitNeurons select_and_refit(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& down, std::int64_t count,
                              Greedy greedy) {
    NormalEquations both = fit;
    both.add(held_out);
    Selection selection = select_neurons(both.pulled_to(prior_of(down), selection_ridge), count, greedy);
    return refit(fit, held_out, down, std::move(selection.kept));
}

}  // namespace mixwright::merge
