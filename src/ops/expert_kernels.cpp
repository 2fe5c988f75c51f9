#include "ops/expert_kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "kernels/quantize.h"
#include "ops/fast_math.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {
namespace {

// ---- which token goes where ---------------------------------------------------------------------------------------

// The N * K assignments sorted by expert: slots [begin[e], begin[e + 1]) are those of expert e, tokens in order.
struct Assignments {
    std::vector<std::int32_t> begin, token;
    std::vector<float> weight;

    std::int32_t count(std::size_t expert) const { return begin[expert + 1] - begin[expert]; }
};

Assignments sort_by_expert(const Routing& routing, std::size_t num_experts) {
    const at::Tensor experts = routing.experts.contiguous(), weights = routing.weights.contiguous();
    const std::int64_t slots = experts.numel(), top_k = experts.size(1);
    const auto* expert_of = experts.const_data_ptr<std::int64_t>();
    const auto* weight_of = weights.const_data_ptr<float>();
    Assignments sorted{std::vector<std::int32_t>(num_experts + 1), std::vector<std::int32_t>(static_cast<std::size_t>(slots)),
                       std::vector<float>(static_cast<std::size_t>(slots))};
    for (std::int64_t i = 0; i < slots; ++i) ++sorted.begin[static_cast<std::size_t>(expert_of[i]) + 1];
    std::partial_sum(sorted.begin.begin(), sorted.begin.end(), sorted.begin.begin());
    std::vector<std::int32_t> next(sorted.begin.begin(), sorted.begin.end() - 1);
    for (std::int64_t i = 0; i < slots; ++i) {
        const auto slot = static_cast<std::size_t>(next[static_cast<std::size_t>(expert_of[i])]++);
        sorted.token[slot] = static_cast<std::int32_t>(i / top_k);
        sorted.weight[slot] = weight_of[i];
    }
    return sorted;
}

// ---- elementwise loops --------------------------------------------------------------------------------------------

MIXWRIGHT_INLINE float silu(float x) { return x / (1.0f + fast_exp(-x)); }

template <class T>
MIXWRIGHT_INLINE void silu_times(const T* gate, const T* up, std::int64_t count, T* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = narrow<T>(silu(widen(gate[i])) * widen(up[i]));
}
MIXWRIGHT_VECTORISED void silu_mul(const float* gate, const float* up, std::int64_t count, float* out) { silu_times(gate, up, count, out); }
MIXWRIGHT_VECTORISED void silu_mul(const std::uint16_t* gate, const std::uint16_t* up, std::int64_t count, std::uint16_t* out) {
    silu_times(gate, up, count, out);
}
MIXWRIGHT_VECTORISED void add_weighted(const float* x, float weight, std::int64_t count, float* sum) {
    for (std::int64_t i = 0; i < count; ++i) sum[i] += weight * x[i];
}
MIXWRIGHT_VECTORISED void add_weighted(const std::uint16_t* x, float weight, std::int64_t count, float* sum) {
    for (std::int64_t i = 0; i < count; ++i) sum[i] += weight * widen(x[i]);
}
MIXWRIGHT_VECTORISED void narrow_all(const float* from, std::int64_t count, std::uint16_t* to) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = narrow<std::uint16_t>(from[i]);
}

// ---- experts with few tokens --------------------------------------------------------------------------------------

// All of `chosen` (at most max_skinny_rows tokens each): one pass over their gates and ups, one over their downs.
void run_few(const at::Tensor& x_ND, const Assignments& assignments, const std::vector<std::size_t>& chosen, std::span<const Mlp> experts, float* y) {
    constexpr std::int64_t piece = 32;  // rows of weights
    const std::int64_t D = x_ND.size(1), F = experts[0].gate.weight.size(0);
    struct Group {
        kernels::Weights gate, up, down;
        std::span<const std::int32_t> tokens;
        const float* weights;
        std::int32_t first_slot;  // in `hidden`
    };
    std::vector<Group> groups;
    std::int32_t slots = 0;
    for (const std::size_t e : chosen) {
        const auto first = static_cast<std::size_t>(assignments.begin[e]), count = static_cast<std::size_t>(assignments.count(e));
        groups.push_back({kernel_weights(experts[e].gate, D), kernel_weights(experts[e].up, D), kernel_weights(experts[e].down, F),
                          {&assignments.token[first], count}, &assignments.weight[first], slots});
        slots += static_cast<std::int32_t>(count);
    }

    const kernels::Activations x = activations_for(groups.front().gate.format, x_ND);
    const at::Tensor hidden = at::empty({slots, F}, at::kFloat);
    auto* h = hidden.mutable_data_ptr<float>();
    const std::int64_t pieces = (F + piece - 1) / piece;
    share_work(pieces * static_cast<std::int64_t>(groups.size()), [&](std::int64_t unit) {
        const Group& group = groups[static_cast<std::size_t>(unit / pieces)];
        const std::int64_t begin = unit % pieces * piece, end = std::min(F, begin + piece);
        std::array<float, max_skinny_rows * piece> gate, up;
        kernels::multiply(group.gate, begin, end, x, group.tokens, gate.data() - begin, piece);
        kernels::multiply(group.up, begin, end, x, group.tokens, up.data() - begin, piece);
        for (std::size_t i = 0; i < group.tokens.size(); ++i)
            silu_mul(&gate[i * piece], &up[i * piece], end - begin, h + (group.first_slot + static_cast<std::int64_t>(i)) * F + begin);
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

// ---- experts with many tokens -------------------------------------------------------------------------------------

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
void run_many(const at::Tensor& x_ND, std::span<const std::int32_t> tokens, const float* weights, const Dense& expert, Scratch& scratch, float* y) {
    const std::int64_t D = x_ND.size(1), F = expert.down.size(1), count = static_cast<std::int64_t>(tokens.size());
    const std::int64_t padded = (count + block_multiple - 1) / block_multiple * block_multiple;
    const auto buffer = [&](at::Tensor& tensor, std::int64_t cols) {
        if (!tensor.defined()) tensor = at::empty({block_tokens, cols}, x_ND.options());
        return tensor.narrow(0, 0, padded);
    };
    const at::Tensor x = buffer(scratch.x, D), hidden = buffer(scratch.hidden, F);
    at::Tensor out = buffer(scratch.out, D);
    const auto* from = static_cast<const T*>(x_ND.const_data_ptr());
    auto* rows = static_cast<T*>(x.data_ptr());
    constexpr std::int64_t grain = 16;  // tokens
    at::parallel_for(0, padded, grain, [&](std::int64_t begin, std::int64_t end) {
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
    at::parallel_for(0, padded, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) silu_mul(gate + i * stride, up + i * stride, F, h + i * F);
    });
    at::mm_out(out, hidden, expert.down.t());
    const auto* results = static_cast<const T*>(out.const_data_ptr());
    at::parallel_for(0, count, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) add_weighted(results + i * D, weights[i], D, y + tokens[static_cast<std::size_t>(i)] * D);
    });
}

bool plain(const Linear& linear, const at::Tensor& x) {
    return linear.weight.defined() && !linear.bias.defined() && !linear.lora_a.defined() && has_kernel_weights(linear, x);
}

}  // namespace

bool expert_kernels_apply(const at::Tensor& x, std::span<const Mlp> experts) {
    return kernels_apply(x) && x.size(0) > 0 && std::ranges::all_of(experts, [&](const Mlp& e) {
               return e.activation == arch::Activation::silu && plain(e.gate, x) && plain(e.up, x) && plain(e.down, x);
           });
}

at::Tensor run_experts(const at::Tensor& x_in, const Routing& routing, std::span<const Mlp> experts) {
    const at::Tensor x = x_in.contiguous();
    const std::int64_t D = x.size(1);
    const bool bf16 = x.scalar_type() == at::kBFloat16;
    const Assignments assignments = sort_by_expert(routing, experts.size());
    at::Tensor sum = at::zeros({x.size(0), D}, x.options().dtype(at::kFloat));
    auto* y = sum.mutable_data_ptr<float>();

    std::vector<std::size_t> few;
    Scratch scratch;
    for (std::size_t e = 0; e < experts.size(); ++e) {
        const std::int32_t count = assignments.count(e);
        if (count == 0) continue;
        if (count <= max_skinny_rows) {
            few.push_back(e);
            continue;
        }
        const Dense dense = dense_weights(experts[e], D, x.scalar_type());
        for (std::int32_t first = 0; first < count; first += block_tokens) {
            const auto slot = static_cast<std::size_t>(assignments.begin[e] + first);
            const std::span tokens(&assignments.token[slot], static_cast<std::size_t>(std::min<std::int32_t>(block_tokens, count - first)));
            if (bf16)
                run_many<std::uint16_t>(x, tokens, &assignments.weight[slot], dense, scratch, y);
            else
                run_many<float>(x, tokens, &assignments.weight[slot], dense, scratch, y);
        }
    }
    if (!few.empty()) run_few(x, assignments, few, experts, y);
    if (!bf16) return sum;
    at::Tensor result = at::empty(x.sizes(), x.options());
    auto* out = static_cast<std::uint16_t*>(result.data_ptr());
    constexpr std::int64_t grain = 1 << 14;
    at::parallel_for(0, sum.numel(), grain, [&](std::int64_t begin, std::int64_t end) { narrow_all(y + begin, end - begin, out + begin); });
    return result;
}

}  // namespace mixwright::ops
