#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/bf16_panels.h"
#include "ops/expert_loops.h"
#include "ops/expert_products.h"
#include "ops/panel_product.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {
namespace {

// Some tokens of one expert.
struct Unit {
    const Mlp* expert;
    std::size_t slot;      // of the first, among all assignments
    std::int64_t tokens;
};

// out[i] = what the expert makes of token i, [tokens, D] in the dtype of x.
template <class T>
void run_unit(const at::Tensor& x, const Unit& unit, std::span<const std::int32_t> tokens, T* out) {
    const std::int64_t D = x.size(1), F = unit.expert->gate.weight.size(0);
    const kernels::Panels inputs = filled_panels(x, tokens);
    kernels::Panels hidden = panels_for(x, unit.tokens, F);
    const std::int64_t panels = inputs.count(), width = inputs.width(), hidden_tile = kernels::tile_rows(F, D), out_tile = hidden.format() == kernels::Format::bf16 ? kernels::bf16_tile_rows : kernels::tile_rows(D, F);
    const kernels::Weights gate_weights = kernel_weights(unit.expert->gate, D), up_weights = kernel_weights(unit.expert->up, D), down_weights = kernel_weights(unit.expert->down, F);
    const std::int64_t step = std::max(hidden_tile, out_tile) * width;
    float* const sums = panel_scratch((2 * panels + 1) * step);
    for (std::int64_t begin = 0; begin < F; begin += hidden_tile) {
        const std::int64_t end = std::min(F, begin + hidden_tile);
        float *gate = sums, *up = sums + panels * step;
        kernels::multiply(gate_weights, begin, end, inputs, gate, step);
        kernels::multiply(up_weights, begin, end, inputs, up, step);
        for (std::int64_t p = 0; p < panels; ++p, gate += step, up += step) {
            if (hidden.format() == kernels::Format::bf16)
                kernels::put_swiglu_pairs(gate, up, end - begin, hidden.panel<std::uint16_t>(p, begin));
            else
                silu_mul(gate, up, (end - begin) * width, hidden.panel<float>(p, begin));
        }
    }

    for (std::int64_t begin = 0; begin < D; begin += out_tile)
        multiply_rows<T>(down_weights, begin, std::min(D, begin + out_tile), hidden, nullptr, sums, out, D);
}

// Units of about one size, as many as keep all threads busy to the end.
std::vector<Unit> divide(const ExpertProducts& products, std::span<const std::size_t> chosen) {
    std::int64_t slots = 0;
    for (const std::size_t e : chosen) slots += products.assignments.count(e);
    std::vector<Unit> units;
    for (const std::size_t e : chosen) {
        const Mlp& expert = products.experts[e];
        const RowUnits of_expert = row_units(products.x, products.x.size(1) + expert.gate.weight.size(0), products.assignments.count(e), slots, 1);
        for (std::int64_t i = 0; i < of_expert.count; ++i)
            units.push_back({&expert, static_cast<std::size_t>(products.assignments.begin[e] + of_expert.begin(i)), of_expert.size(i)});
    }
    return units;
}

// The slots of each token, in the order of the experts: sums do not depend on which thread was first.
struct TokenSlots {
    std::vector<std::int32_t> begin, slot;  // those of token n are slot[begin[n]] to slot[begin[n + 1]]

    TokenSlots(const Assignments& assignments, std::span<const std::size_t> chosen, std::int64_t num_tokens) : begin(static_cast<std::size_t>(num_tokens) + 1) {
        const auto each = [&](const auto& work) {
            for (const std::size_t e : chosen)
                for (std::int32_t i = assignments.begin[e]; i < assignments.begin[e + 1]; ++i) work(i, static_cast<std::size_t>(assignments.token[static_cast<std::size_t>(i)]));
        };
        each([&](std::int32_t, std::size_t token) { ++begin[token + 1]; });
        std::partial_sum(begin.begin(), begin.end(), begin.begin());
        slot.resize(static_cast<std::size_t>(begin.back()));
        std::vector<std::int32_t> next(begin.begin(), begin.end() - 1);
        each([&](std::int32_t i, std::size_t token) { slot[static_cast<std::size_t>(next[token]++)] = i; });
    }

    std::span<const std::int32_t> of(std::int64_t token) const {
        const auto first = static_cast<std::size_t>(begin[static_cast<std::size_t>(token)]), last = static_cast<std::size_t>(begin[static_cast<std::size_t>(token) + 1]);
        return std::span(slot).subspan(first, last - first);
    }
};

void round_row(const float* sums, std::int64_t count, float* out) { std::copy_n(sums, count, out); }
void round_row(const float* sums, std::int64_t count, std::uint16_t* out) { narrow_all(sums, count, out); }

template <class T>
at::Tensor run_units(const ExpertProducts& products, std::span<const std::size_t> chosen, const at::Tensor& y) {
    const at::Tensor& x = products.x;
    const Assignments& assignments = products.assignments;
    const std::int64_t N = x.size(0), D = x.size(1);
    const std::vector<Unit> units = divide(products, chosen);
    const at::Tensor outputs = at::empty({std::ssize(assignments.token), D}, x.options());
    T* const out = static_cast<T*>(outputs.data_ptr());
    share_work(std::ssize(units), [&](std::int64_t i) {
        const Unit& unit = units[static_cast<std::size_t>(i)];
        run_unit(x, unit, std::span(&assignments.token[unit.slot], static_cast<std::size_t>(unit.tokens)), out + static_cast<std::int64_t>(unit.slot) * D);
    });

    const TokenSlots slots(assignments, chosen, N);
    const float* const before = y.defined() ? y.const_data_ptr<float>() : nullptr;
    at::Tensor result = at::empty({N, D}, x.options());
    T* const to = static_cast<T*>(result.data_ptr());
    constexpr std::int64_t grain = 32;
    share_work((N + grain - 1) / grain, [&](std::int64_t piece) {
        float* const sums = panel_scratch(D);
        for (std::int64_t token = piece * grain; token < std::min(N, (piece + 1) * grain); ++token) {
            before == nullptr ? std::fill_n(sums, D, 0.0f) : std::copy_n(before + token * D, D, sums);
            for (const std::int32_t slot : slots.of(token)) add_weighted(out + slot * D, assignments.weight[static_cast<std::size_t>(slot)], D, sums);
            round_row(sums, D, to + token * D);
        }
    });
    return result;
}

}  // namespace

at::Tensor ExpertProducts::run_panels(std::span<const std::size_t> chosen, const at::Tensor& y) const {
    return x.scalar_type() == at::kBFloat16 ? run_units<std::uint16_t>(*this, chosen, y) : run_units<float>(*this, chosen, y);
}

}  // namespace mixwright::ops
