#include "ops/rope_kernel.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "ops/fast_math.h"
#include "ops/parallel.h"

namespace mixwright::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Pairs { halves, neighbours };       // of x: (j, j + r / 2) or (2j, 2j + 1)
enum class Direction { forward, backward };    // backward turns the other way, out of halves into the pairs of x

// Vectors of one position, `x_step` apart; the results are dense.
struct Vectors {
    std::int64_t count, x_step, rotating, dim;
    const float *cos, *sin;
};

template <Pairs pairs, Direction direction, class T>
MIXWRIGHT_INLINE void rotate(const T* __restrict x, T* __restrict out, const Vectors& v) {
    constexpr bool spread_in = pairs == Pairs::neighbours && direction == Direction::forward;
    constexpr bool spread_out = pairs == Pairs::neighbours && direction == Direction::backward;
    const std::int64_t half = v.rotating / 2;
    for (std::int64_t h = 0; h < v.count; ++h, x += v.x_step, out += v.dim) {
        for (std::int64_t j = 0; j < half; ++j) {
            const float low = widen(x[spread_in ? 2 * j : j]), high = widen(x[spread_in ? 2 * j + 1 : half + j]);
            const float s = direction == Direction::forward ? v.sin[j] : -v.sin[j];
            out[spread_out ? 2 * j : j] = narrow<T>(low * v.cos[j] - high * s);
            out[spread_out ? 2 * j + 1 : half + j] = narrow<T>(high * v.cos[j] + low * s);
        }
        for (std::int64_t i = v.rotating; i < v.dim; ++i) out[i] = x[i];
    }
}

template <class T>
MIXWRIGHT_INLINE void rotate(Pairs pairs, Direction direction, const T* x, T* out, const Vectors& v) {
    if (pairs == Pairs::halves)
        direction == Direction::forward ? rotate<Pairs::halves, Direction::forward>(x, out, v) : rotate<Pairs::halves, Direction::backward>(x, out, v);
    else
        direction == Direction::forward ? rotate<Pairs::neighbours, Direction::forward>(x, out, v) : rotate<Pairs::neighbours, Direction::backward>(x, out, v);
}

MIXWRIGHT_VECTORISED void rotate_bf16(Pairs pairs, Direction direction, const std::uint16_t* x, std::uint16_t* out, const Vectors& v) { rotate(pairs, direction, x, out, v); }
MIXWRIGHT_VECTORISED void rotate_f32(Pairs pairs, Direction direction, const float* x, float* out, const Vectors& v) { rotate(pairs, direction, x, out, v); }

// cos and sin f32 [L, r] or [B, L, r], dense; their second half repeats the first.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, Pairs pairs, Direction direction) {
    const std::int64_t batch = x.size(0), heads = x.size(1), length = x.size(2), dim = x.size(3), rotating = cos.size(-1);
    const at::Tensor out = at::empty({batch, length, heads, dim}, x.options());
    const bool per_sequence = cos.dim() == 3, bf16 = x.scalar_type() == at::kBFloat16;
    const auto *c = cos.const_data_ptr<float>(), *s = sin.const_data_ptr<float>();
    const void* from = x.const_data_ptr();
    void* to = out.mutable_data_ptr();
    parallel_for(0, batch * length, std::max<std::int64_t>(1, (1 << 14) / (heads * dim)), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
            const std::int64_t b = n / length, l = n % length, angle = (per_sequence ? n : l) * rotating, at = b * x.stride(0) + l * x.stride(2);
            const Vectors v{heads, x.stride(1), rotating, dim, c + angle, s + angle};
            if (bf16)
                rotate_bf16(pairs, direction, static_cast<const std::uint16_t*>(from) + at, static_cast<std::uint16_t*>(to) + n * heads * dim, v);
            else
                rotate_f32(pairs, direction, static_cast<const float*>(from) + at, static_cast<float*>(to) + n * heads * dim, v);
        }
    });
    return out.transpose(1, 2);
}

class Rotation : public torch::autograd::Function<Rotation> {
public:
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool neighbours) {
        context->save_for_backward({cos, sin});
        context->saved_data["neighbours"] = neighbours;
        return rotated(x, cos, sin, neighbours ? Pairs::neighbours : Pairs::halves, Direction::forward);
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const variable_list saved = context->get_saved_variables();
        const at::Tensor dy = gradients[0].stride(3) == 1 ? gradients[0] : gradients[0].contiguous();
        return {rotated(dy, saved[0], saved[1], context->saved_data["neighbours"].toBool() ? Pairs::neighbours : Pairs::halves, Direction::backward), {}, {}, {}};
    }
};

}  // namespace

bool rope_kernel_applies(const at::Tensor& x) {
    return x.is_cpu() && (x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat) && x.dim() == 4 && x.stride(3) == 1 && x.numel() > 0;
}

at::Tensor rotate_with_kernel(const at::Tensor& x, const RopeAngles& angles) {
    const at::Tensor cos = angles.cos.contiguous(), sin = angles.sin.contiguous();
    if (at::GradMode::is_enabled() && x.requires_grad()) return Rotation::apply(x, cos, sin, angles.interleaved);
    return rotated(x, cos, sin, angles.interleaved ? Pairs::neighbours : Pairs::halves, Direction::forward);
}

}  // namespace mixwright::ops
