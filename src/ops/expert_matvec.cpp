#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "ops/expert_loops.h"
#include "ops/expert_products.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {

void ExpertProducts::run_few(std::span<const std::size_t> chosen) const {
    constexpr std::int64_t piece = 64;  // rows of weights
    const std::int64_t D = x.size(1);
    struct Group {
        kernels::Weights gate, up, down;
        std::span<const std::int32_t> tokens;
        const float* weights;
        std::int32_t first_slot;  // in `hidden`
    };
    std::vector<Group> groups;
    std::int32_t slots = 0;
    std::int64_t widest = 0;  // experts may differ in width
    for (const std::size_t e : chosen) {
        const auto first = static_cast<std::size_t>(assignments.begin[e]), count = static_cast<std::size_t>(assignments.count(e));
        groups.push_back({kernel_weights(experts[e].gate, D), kernel_weights(experts[e].up, D), kernel_weights(experts[e].down, experts[e].gate.weight.size(0)),
                          {&assignments.token[first], count}, &assignments.weight[first], slots});
        slots += static_cast<std::int32_t>(count);
        widest = std::max(widest, groups.back().gate.rows);
    }

    const kernels::Activations rows_of_x = activations_for(groups.front().gate.format, x);
    const at::Tensor hidden = at::zeros({slots, widest}, at::kFloat);
    auto* h = hidden.mutable_data_ptr<float>();
    const std::int64_t pieces = (widest + piece - 1) / piece;
    share_work(pieces * static_cast<std::int64_t>(groups.size()), [&](std::int64_t unit) {
        const Group& group = groups[static_cast<std::size_t>(unit / pieces)];
        const std::int64_t begin = unit % pieces * piece, end = std::min(group.gate.rows, begin + piece);
        if (begin >= end) return;
        std::array<float, max_skinny_rows * piece> gate, up;
        kernels::multiply(group.gate, begin, end, rows_of_x, group.tokens, gate.data() - begin, piece);
        kernels::multiply(group.up, begin, end, rows_of_x, group.tokens, up.data() - begin, piece);
        for (std::size_t i = 0; i < group.tokens.size(); ++i)
            silu_mul(&gate[i * piece], &up[i * piece], end - begin, h + (group.first_slot + static_cast<std::int64_t>(i)) * widest + begin);
    });

    const kernels::Activations hidden_rows = activations_for(groups.front().down.format, hidden);
    std::vector<std::int32_t> slot_numbers(static_cast<std::size_t>(slots));
    std::iota(slot_numbers.begin(), slot_numbers.end(), 0);
    share_work((D + piece - 1) / piece, [&](std::int64_t unit) {
        const std::int64_t begin = unit * piece, end = std::min(D, begin + piece);
        std::array<float, max_skinny_rows * piece> out;
        for (const Group& group : groups) {
            const std::span rows(&slot_numbers[static_cast<std::size_t>(group.first_slot)], group.tokens.size());
            kernels::multiply(group.down, begin, end, hidden_rows, rows, out.data() - begin, piece);
            for (std::size_t i = 0; i < group.tokens.size(); ++i)
                add_weighted(&out[i * piece], group.weights[i], end - begin, y + group.tokens[i] * D + begin);
        }
    });
}

}  // namespace mixwright::ops
