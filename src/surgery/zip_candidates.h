// What the neurons of an expert, and those of its partner, do for the expert's own output: the equations that choosing and fitting
// them start from.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "merge/least_squares.h"
#include "surgery/zip_methods.h"

namespace mixwright::surgery {

/// Neurons of a pair that go into one pair of Gram matrices.
inline constexpr std::int64_t widest_pair = 4096;

/// Neurons of several experts of the layer, as candidates for one of them: [own | foreign].
struct Candidates {
    at::Tensor activations;  // [n, own + foreign], each token weighed by its gate and by what an error there counts
    at::Tensor output;       // [n, D], weighed alike: what the expert says
    at::Tensor down;         // [D, own + foreign]: its old columns, zero for foreign neurons
    std::int64_t num_fit = 0;

    merge::NormalEquations all() const { return equations(0, activations.size(0)); }
    merge::NormalEquations fit() const { return equations(0, num_fit); }
    merge::NormalEquations held_out() const { return equations(num_fit, activations.size(0) - num_fit); }

private:
    merge::NormalEquations equations(std::int64_t first, std::int64_t count) const;
};

/// On the tokens that reach `expert`; without `foreign`, its own neurons alone.
Candidates candidates(const ZipContext& context, std::int64_t expert, const ops::Mlp* foreign);

/// first, first + 1, ...: `count` numbers.
std::vector<std::int64_t> range(std::int64_t first, std::int64_t count);

}  // namespace mixwright::surgery
