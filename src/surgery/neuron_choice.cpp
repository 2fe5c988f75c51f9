#include "surgery/neuron_choice.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "merge/neuron_selection.h"
#include "merge/shared_neurons.h"
#include "surgery/zip_candidates.h"

namespace mixwright::surgery {
namespace {

constexpr double floor_share = 0.25;  // of the mean width: what every expert keeps

// Least and most own neurons, so that with what it borrows its width is a multiple of the block. False when there is no such number.
bool set_limits(const ZipContext& context, NeuronChoice& choice, bool fixed) {
    const std::int64_t width = context.spec.expert_width, block = window_multiple(width);
    const auto down_to_block = [&](double neurons) { return static_cast<std::int64_t>(neurons) / block * block; };
    const double mean = context.options.keep * static_cast<double>(width);
    std::int64_t least = std::max(block, down_to_block(fixed ? mean : floor_share * mean)), most = fixed ? least : width;
    while (least - choice.borrowed() < std::ssize(choice.shared)) least += block;
    choice.curve.least = least - choice.borrowed();
    choice.curve.most = most - choice.borrowed();
    choice.curve.cost = merge::private_cost;
    return choice.curve.least <= choice.curve.most && choice.curve.most <= width;
}

void set_curve(NeuronChoice& choice, std::int64_t width, const std::vector<double>& errors, std::vector<std::int64_t> order) {
    choice.curve.errors.assign(static_cast<std::size_t>(width) + 1, errors.back());
    for (std::size_t step = 0; step < errors.size(); ++step) choice.curve.errors[static_cast<std::size_t>(width) - step] = errors[step];
    choice.removed = std::move(order);
}

}  // namespace

std::vector<std::int64_t> NeuronChoice::kept(std::int64_t count) const {
    std::vector<bool> gone(curve.errors.size() - 1, false);
    for (std::size_t i = 0; i + static_cast<std::size_t>(count) < gone.size(); ++i) gone[static_cast<std::size_t>(removed[i])] = true;
    std::vector<std::int64_t> left;
    for (std::size_t k = 0; k < gone.size(); ++k)
        if (!gone[k]) left.push_back(static_cast<std::int64_t>(k));
    return left;
}

std::int64_t window_multiple(std::int64_t width) {
    for (const std::int64_t multiple : {32, 16, 8})
        if (width >= 16 * multiple && width % multiple == 0) return multiple;
    return width % 8 == 0 ? 8 : 1;
}

bool starved(const ZipContext& context, std::int64_t expert) { return context.routed.of(expert).num_fit < context.spec.expert_width; }

NeuronChoice choice_alone(const ZipContext& context, std::int64_t expert) {
    const std::int64_t width = context.spec.expert_width;
    NeuronChoice choice;
    set_limits(context, choice, starved(context, expert));
    const Candidates own = candidates(context, expert, nullptr);
    if (context.options.refit) {
        const merge::Selection selection = merge::remove_neurons(own.all().pulled_to(own.down.t(), merge::selection_ridge), choice.curve.least, {});
        set_curve(choice, width, selection.errors, selection.order);
        return choice;
    }
    const at::Tensor energy = merge::output_energy(own.activations.square().sum(0), own.down), order = energy.argsort(/*stable=*/true);
    std::vector<double> errors{0};
    std::vector<std::int64_t> removed;
    for (std::int64_t i = 0; i + choice.curve.least < width; ++i) {
        removed.push_back(order[i].item<std::int64_t>());
        errors.push_back(errors.back() + energy[removed.back()].item<double>());
    }
    set_curve(choice, width, errors, std::move(removed));
    return choice;
}

std::optional<NeuronChoice> choice_together(const ZipContext& context, std::int64_t expert, std::int64_t partner, std::vector<std::int64_t> shared,
                                            std::vector<std::int64_t> foreign) {
    const std::int64_t width = context.spec.expert_width;
    NeuronChoice choice{.shared = std::move(shared), .foreign = std::move(foreign)};
    if (!set_limits(context, choice, false)) return std::nullopt;
    const ops::Mlp lent = neurons_of(context.weights.experts[static_cast<std::size_t>(partner)], choice.foreign);
    const Candidates both = candidates(context, expert, &lent);
    std::vector<std::int64_t> stay = choice.shared;
    for (const std::int64_t k : range(width, choice.borrowed())) stay.push_back(k);
    const merge::Selection selection =
        merge::remove_neurons(both.all().pulled_to(both.down.t(), merge::selection_ridge), choice.curve.least + choice.borrowed(), stay);
    set_curve(choice, width, selection.errors, selection.order);
    return choice;
}

}  // namespace mixwright::surgery
