#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "ops/expert_loops.h"
#include "ops/expert_products.h"
#include "ops/row_pieces.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {
namespace {

// One of the experts that run.
struct Active {
    kernels::Weights gate, up, down;
    std::span<const std::int32_t> tokens;
    const float* weights;
    std::int32_t first_slot;           // of its tokens, in `hidden`
    // Rows it has in common with another (views of one tensor): they are computed with those of the first of the two.
    const Active* partner = nullptr;
    std::int64_t shared_begin = 0, shared_end = 0, partner_begin = 0;
    bool leads = false;

    bool left_to_partner(std::int64_t row) const { return partner != nullptr && !leads && row >= shared_begin && row < shared_end; }
    bool shared(std::int64_t row) const { return partner != nullptr && row >= shared_begin && row < shared_end; }
};

// Marks the rows that two of `active` share.
void pair_up(std::vector<Active>& active) {
    for (std::size_t b = 1; b < active.size(); ++b) {
        for (std::size_t a = 0; a < b && active[b].partner == nullptr; ++a) {
            Active &first = active[a], &second = active[b];
            if (first.partner != nullptr || first.gate.format != second.gate.format) continue;
            const std::int64_t row = kernels::row_bytes(first.gate.format, first.gate.cols);
            const auto* start = static_cast<const std::byte*>(first.gate.values);
            const auto distance = static_cast<const std::byte*>(second.gate.values) - start;
            const auto up_distance = static_cast<const std::byte*>(second.up.values) - static_cast<const std::byte*>(first.up.values);
            if (distance != up_distance || distance % row != 0) continue;
            const std::int64_t shift = distance / row, begin = std::max<std::int64_t>(0, shift), end = std::min(first.gate.rows, shift + second.gate.rows);
            if (begin >= end) continue;
            first.partner = &second, first.shared_begin = begin, first.shared_end = end, first.partner_begin = begin - shift, first.leads = true;
            second.partner = &first, second.shared_begin = begin - shift, second.shared_end = end - shift, second.partner_begin = begin;
        }
    }
}

// hidden rows [begin, end) of `tokens` at their places in h, `stride` apart.
struct Destination {
    std::span<const std::int32_t> tokens;
    float* h;
};

void run_rows(const Active& expert, std::int64_t begin, std::int64_t end, const kernels::Activations& x, std::span<const std::int32_t> tokens,
              std::span<const Destination> destinations, std::int64_t stride) {
    std::array<float, max_skinny_rows * RowPieces::most> gate, up;
    const std::int64_t count = end - begin;
    kernels::multiply(expert.gate, begin, end, x, tokens, gate.data() - begin, count);
    kernels::multiply(expert.up, begin, end, x, tokens, up.data() - begin, count);
    for (const Destination& to : destinations)
        for (std::size_t i = 0; i < to.tokens.size(); ++i) {
            const auto at = static_cast<std::size_t>((std::ranges::find(tokens, to.tokens[i]) - tokens.begin()) * count);
            silu_mul(&gate[at], &up[at], count, to.h + static_cast<std::int64_t>(i) * stride);
        }
}

// Rows of the gate and up of one expert.
struct Rows {
    const Active* expert;
    std::int64_t begin, end;
};

// What threads take in turn: all rows but those left to a partner, none partly shared.
std::vector<Rows> gate_rows(const std::vector<Active>& active) {
    std::vector<Rows> stretches;
    std::int64_t total = 0;
    for (const Active& expert : active)
        for (std::int64_t begin = 0, end = 0; begin < expert.gate.rows; begin = end) {
            end = expert.gate.rows;
            for (const std::int64_t cut : {expert.shared_begin, expert.shared_end})
                if (cut > begin && cut < end) end = cut;
            if (expert.left_to_partner(begin)) continue;
            stretches.push_back({&expert, begin, end});
            total += end - begin;
        }
    const kernels::Weights& gate = active.front().gate;
    RowPieces sizes(total, kernels::row_bytes(gate.format, gate.cols), at::get_num_threads());
    std::vector<Rows> rows;
    for (const Rows& stretch : stretches)
        sizes.cut(stretch.begin, stretch.end, [&](std::int64_t begin, std::int64_t end) { rows.push_back({stretch.expert, begin, end}); });
    return rows;
}

}  // namespace

void ExpertProducts::run_few(std::span<const std::size_t> chosen, float* y) const {
    const std::int64_t D = x.size(1);
    std::vector<Active> active;
    std::int32_t slots = 0;
    std::int64_t widest = 0;  // experts may differ in width
    for (const std::size_t e : chosen) {
        const auto first = static_cast<std::size_t>(assignments.begin[e]), count = static_cast<std::size_t>(assignments.count(e));
        active.push_back({kernel_weights(experts[e].gate, D), kernel_weights(experts[e].up, D), kernel_weights(experts[e].down, experts[e].gate.weight.size(0)),
                          {&assignments.token[first], count}, &assignments.weight[first], slots});
        slots += static_cast<std::int32_t>(count);
        widest = std::max(widest, active.back().gate.rows);
    }
    pair_up(active);

    const kernels::Activations rows_of_x = activations_for(active.front().gate.format, x);
    const at::Tensor hidden = at::zeros({slots, widest}, at::kFloat);
    auto* h = hidden.mutable_data_ptr<float>();
    const std::vector<Rows> rows = gate_rows(active);
    share_work(std::ssize(rows), [&](std::int64_t unit) {
        const auto [expert, begin, end] = rows[static_cast<std::size_t>(unit)];
        const auto place = [&](const Active& e, std::int64_t row) { return Destination{e.tokens, h + e.first_slot * widest + row}; };
        const Destination own = place(*expert, begin);
        if (!expert->shared(begin)) return run_rows(*expert, begin, end, rows_of_x, expert->tokens, {&own, 1}, widest);
        const Destination theirs = place(*expert->partner, expert->partner_begin + begin - expert->shared_begin);
        std::array<std::int32_t, 2 * max_skinny_rows> both;
        auto last = std::ranges::copy(own.tokens, both.begin()).out;
        last = std::ranges::copy_if(theirs.tokens, last, [&](std::int32_t token) { return std::ranges::find(own.tokens, token) == own.tokens.end(); }).out;
        const std::span<const std::int32_t> tokens(both.begin(), last);
        if (std::ssize(tokens) <= max_skinny_rows) return run_rows(*expert, begin, end, rows_of_x, tokens, std::array{own, theirs}, widest);
        for (const Destination& to : {own, theirs}) run_rows(*expert, begin, end, rows_of_x, to.tokens, {&to, 1}, widest);
    });

    const kernels::Activations hidden_rows = activations_for(active.front().down.format, hidden);
    std::vector<std::int32_t> slot_numbers(static_cast<std::size_t>(slots));
    std::iota(slot_numbers.begin(), slot_numbers.end(), 0);
    const kernels::Weights& down = active.front().down;
    RowPieces sizes(D, kernels::row_bytes(down.format, down.cols), at::get_num_threads());
    std::vector<std::pair<std::int64_t, std::int64_t>> outputs;
    sizes.cut(0, D, [&](std::int64_t begin, std::int64_t end) { outputs.emplace_back(begin, end); });
    share_work(std::ssize(outputs), [&](std::int64_t unit) {
        const auto [begin, end] = outputs[static_cast<std::size_t>(unit)];
        const std::int64_t count = end - begin;
        std::array<float, max_skinny_rows * RowPieces::most> out;
        for (const Active& expert : active) {
            const std::span rows(&slot_numbers[static_cast<std::size_t>(expert.first_slot)], expert.tokens.size());
            kernels::multiply(expert.down, begin, end, hidden_rows, rows, out.data() - begin, count);
            for (std::size_t i = 0; i < expert.tokens.size(); ++i)
                add_weighted(&out[i * static_cast<std::size_t>(count)], expert.weights[i], count, y + expert.tokens[i] * D + begin);
        }
    });
}

}  // namespace mixwright::ops
