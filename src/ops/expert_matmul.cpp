#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/quantize.h"
#include "ops/expert_loops.h"
#include "ops/expert_products.h"
#include "ops/parallel.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {
namespace {

constexpr std::int64_t block_tokens = 512;
// Matrix products are prepared for each shape they meet: block sizes are rounded up to this, so that shapes repeat.
constexpr std::int64_t block_multiple = 32;

// Weights of one expert in the dtype of the activations, ready for matrix products.
struct Dense {
    at::Tensor gate_up;   // [2F, D], when they lie one behind the other
    at::Tensor gate, up;  // [F, D] otherwise
    at::Tensor down;      // [D, F]
};

// Rows [0, rows) of quantised weights as `to`, which is bf16.
void dequantize_into(const Linear& linear, std::int64_t cols, const at::Tensor& to) {
    constexpr std::int64_t rows_a_piece = 16;
    const kernels::Weights weights = kernel_weights(linear, cols);
    auto* out = static_cast<std::uint16_t*>(to.data_ptr());
    share_work((weights.rows + rows_a_piece - 1) / rows_a_piece, [&](std::int64_t unit) {
        const std::int64_t begin = unit * rows_a_piece, end = std::min(weights.rows, begin + rows_a_piece);
        kernels::dequantize(weights, begin, end, out + begin * cols);
    });
}

Dense dense_weights(const Mlp& expert, std::int64_t D, at::ScalarType dtype) {
    const std::int64_t F = expert.gate.weight.size(0);
    if (expert.gate.scales.defined()) {
        Dense dense;
        dense.gate_up = at::empty({2 * F, D}, at::kBFloat16);
        dense.down = at::empty({D, F}, at::kBFloat16);
        dequantize_into(expert.gate, D, dense.gate_up.narrow(0, 0, F));
        dequantize_into(expert.up, D, dense.gate_up.narrow(0, F, F));
        dequantize_into(expert.down, F, dense.down);
        dense.gate_up = dense.gate_up.to(dtype);
        dense.down = dense.down.to(dtype);
        return dense;
    }
    const at::Tensor &gate = expert.gate.weight, &up = expert.up.weight;
    const auto* gate_end = static_cast<const std::byte*>(gate.const_data_ptr()) + gate.nbytes();
    // Fused checkpoints, and ours, have the two one behind the other: then one product does both.
    if (gate_end == up.const_data_ptr() && gate.is_contiguous() && up.is_contiguous())
        return {at::from_blob(gate.data_ptr(), {2 * F, D}, gate.options()), {}, {}, expert.down.weight};
    return {{}, gate, up, expert.down.weight};
}

// Buffers for one block of tokens.
struct Scratch {
    at::Tensor x, gate_up, gate, up, hidden, out;
};

template <class T>
void run_block(const at::Tensor& x_ND, std::span<const std::int32_t> tokens, const float* weights, const Dense& expert, Scratch& scratch, float* y) {
    const std::int64_t D = x_ND.size(1), F = expert.down.size(1), count = static_cast<std::int64_t>(tokens.size());
    const std::int64_t padded = (count + block_multiple - 1) / block_multiple * block_multiple;
    const auto buffer = [&](at::Tensor& tensor, std::int64_t cols) {
        if (!tensor.defined() || tensor.size(1) != cols) tensor = at::empty({block_tokens, cols}, x_ND.options());
        return tensor.narrow(0, 0, padded);
    };
    const at::Tensor x = buffer(scratch.x, D), hidden = buffer(scratch.hidden, F);
    at::Tensor out = buffer(scratch.out, D);
    const auto* from = static_cast<const T*>(x_ND.const_data_ptr());
    auto* rows = static_cast<T*>(x.data_ptr());
    constexpr std::int64_t grain = 16;  // tokens
    parallel_for(0, padded, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {  // rows that only pad repeat the last token
            const std::int64_t token = tokens[static_cast<std::size_t>(std::min(i, count - 1))];
            std::copy(from + token * D, from + (token + 1) * D, rows + i * D);
        }
    });

    const T *gate = nullptr, *up = nullptr;
    std::int64_t stride = 0;
    if (expert.gate_up.defined()) {
        at::Tensor both = buffer(scratch.gate_up, 2 * F);
        at::mm_out(both, x, expert.gate_up.t());
        gate = static_cast<const T*>(both.const_data_ptr());
        up = gate + F;
        stride = 2 * F;
    } else {
        at::Tensor g = buffer(scratch.gate, F), u = buffer(scratch.up, F);
        at::mm_out(g, x, expert.gate.t());
        at::mm_out(u, x, expert.up.t());
        gate = static_cast<const T*>(g.const_data_ptr());
        up = static_cast<const T*>(u.const_data_ptr());
        stride = F;
    }
    auto* h = static_cast<T*>(hidden.data_ptr());
    parallel_for(0, padded, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) silu_mul(gate + i * stride, up + i * stride, F, h + i * F);
    });
    at::mm_out(out, hidden, expert.down.t());
    const auto* results = static_cast<const T*>(out.const_data_ptr());
    parallel_for(0, count, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) add_weighted(results + i * D, weights[i], D, y + tokens[static_cast<std::size_t>(i)] * D);
    });
}

}  // namespace

void ExpertProducts::run_matmul(std::span<const std::size_t> chosen, float* y) const {
    const std::int64_t D = x.size(1);
    Scratch scratch;
    for (const std::size_t e : chosen) {
        const std::int32_t count = assignments.count(e);
        const Dense dense = dense_weights(experts[e], D, x.scalar_type());
        for (std::int32_t first = 0; first < count; first += block_tokens) {
            const auto slot = static_cast<std::size_t>(assignments.begin[e] + first);
            const std::span tokens(&assignments.token[slot], static_cast<std::size_t>(std::min<std::int32_t>(block_tokens, count - first)));
            if (x.scalar_type() == at::kBFloat16)
                run_block<std::uint16_t>(x, tokens, &assignments.weight[slot], dense, scratch, y);
            else
                run_block<float>(x, tokens, &assignments.weight[slot], dense, scratch, y);
        }
    }
}

}  // namespace mixwright::ops
