// What one expert of a layer has to choose from: its own neurons, in the order in which it can do without them, and those of its
// partner.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "merge/width_budget.h"
#include "surgery/zip_methods.h"

namespace mixwright::surgery {

struct NeuronChoice {
    merge::WidthCurve curve;            // over its own neurons
    std::vector<std::int64_t> removed;  // own neurons in the order in which they go
    std::vector<std::int64_t> shared;   // own neurons that its partner uses, ascending: they never go
    std::vector<std::int64_t> foreign;  // its partner's neurons that it uses, ascending

    std::int64_t borrowed() const { return std::ssize(foreign); }
    /// The own neurons that are left when `count` are, ascending.
    std::vector<std::int64_t> kept(std::int64_t count) const;
};

/// Widths are multiples of it.
std::int64_t window_multiple(std::int64_t width);

/// Whether the expert has fewer tokens than neurons: what it needs is then not known.
bool starved(const ZipContext& context, std::int64_t expert);

/// Without the partner: the expert may fall to a quarter of the mean width that `keep` leaves. A starved one gets the mean width.
NeuronChoice choice_alone(const ZipContext& context, std::int64_t expert);

/// With those of `foreign` at hand, neurons of `partner`, and without losing those of `shared`. Nothing when no width fits.
std::optional<NeuronChoice> choice_together(const ZipContext& context, std::int64_t expert, std::int64_t partner, std::vector<std::int64_t> shared,
                                            std::vector<std::int64_t> foreign);

}  // namespace mixwright::surgery
