#include "ops/rms_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "ops/fast_math.h"
#include "ops/parallel.h"

namespace mixwright::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t lanes = 32;         // partial sums, so that loops vectorise
constexpr std::int64_t rows_a_block = 64;  // of the gradient of the weight: its sum does not depend on the number of threads

// sum of term(0) .. term(size - 1)
template <class Term>
MIXWRIGHT_INLINE float sum_of(std::int64_t size, const Term& term) {
    float sums[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= size; i += lanes)
        for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += term(i + lane);
    float sum = 0;
    for (; i < size; ++i) sum += term(i);
    // By halves: one after the other they would take longer than a head's row does.
    for (std::int64_t half = lanes / 2; half > 0; half /= 2)
        for (std::int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    return sum + sums[0];
}

// Rows of x lie `step` apart; results are dense.
template <class T>
MIXWRIGHT_INLINE void normalise(const T* x, std::int64_t step, const T* weight, std::int64_t rows, std::int64_t size, float eps, T* out, float* factors) {
    for (std::int64_t n = 0; n < rows; ++n, x += step, out += size) {
        const float sum = sum_of(size, [x](std::int64_t i) __attribute__((always_inline)) { return widen(x[i]) * widen(x[i]); });
        const float factor = factors[n] = fast_rsqrt(sum / static_cast<float>(size) + eps);
        for (std::int64_t i = 0; i < size; ++i) out[i] = narrow<T>(widen(x[i]) * factor * widen(weight[i]));
    }
}

// With n = x factor: d x = factor (w dy - n mean(w dy n)), and d w grows by dy n.
template <class T>
MIXWRIGHT_INLINE void gradient(const T* x, std::int64_t step, const T* weight, const float* factors, const T* dy, std::int64_t rows, std::int64_t size, T* dx, float* dw) {
    for (std::int64_t n = 0; n < rows; ++n, x += step, dy += size, dx += size) {
        const float factor = factors[n];
        const float sum = sum_of(size, [=](std::int64_t i) __attribute__((always_inline)) { return widen(dy[i]) * widen(weight[i]) * widen(x[i]); });
        const float along = sum * factor * factor / static_cast<float>(size);
        for (std::int64_t i = 0; i < size; ++i) {
            const float d = widen(dy[i]), v = widen(x[i]);
            dx[i] = narrow<T>(factor * (d * widen(weight[i]) - v * along));
            dw[i] += d * v * factor;
        }
    }
}

MIXWRIGHT_VECTORISED void normalise_bf16(const std::uint16_t* x, std::int64_t step, const std::uint16_t* weight, std::int64_t rows, std::int64_t size, float eps,
                                         std::uint16_t* out, float* factors) {
    normalise(x, step, weight, rows, size, eps, out, factors);
}
MIXWRIGHT_VECTORISED void normalise_f32(const float* x, std::int64_t step, const float* weight, std::int64_t rows, std::int64_t size, float eps, float* out, float* factors) {
    normalise(x, step, weight, rows, size, eps, out, factors);
}
MIXWRIGHT_VECTORISED void gradient_bf16(const std::uint16_t* x, std::int64_t step, const std::uint16_t* weight, const float* factors, const std::uint16_t* dy,
                                        std::int64_t rows, std::int64_t size, std::uint16_t* __restrict dx, float* __restrict dw) {
    gradient(x, step, weight, factors, dy, rows, size, dx, dw);
}
MIXWRIGHT_VECTORISED void gradient_f32(const float* x, std::int64_t step, const float* weight, const float* factors, const float* dy, std::int64_t rows,
                                       std::int64_t size, float* __restrict dx, float* __restrict dw) {
    gradient(x, step, weight, factors, dy, rows, size, dx, dw);
}

template <class T>
const T* data_of(const at::Tensor& tensor) { return static_cast<const T*>(tensor.const_data_ptr()); }
template <class T>
T* data_of(at::Tensor& tensor) { return static_cast<T*>(tensor.mutable_data_ptr()); }

// x [N, D] with a dense last dimension -> [N, D] dense; `factors` f32 [N].
at::Tensor forward_rows(const at::Tensor& x, const at::Tensor& weight, double eps, at::Tensor& factors) {
    const std::int64_t rows = x.size(0), size = x.size(1), step = x.stride(0);
    at::Tensor out = at::empty({rows, size}, x.options());
    factors = at::empty({rows}, x.options().dtype(at::kFloat));
    parallel_for(0, rows, std::max<std::int64_t>(1, (1 << 15) / size), [&](std::int64_t begin, std::int64_t end) {
        float* factor = factors.mutable_data_ptr<float>() + begin;
        if (x.scalar_type() == at::kBFloat16)
            normalise_bf16(data_of<std::uint16_t>(x) + begin * step, step, data_of<std::uint16_t>(weight), end - begin, size, static_cast<float>(eps), data_of<std::uint16_t>(out) + begin * size, factor);
        else
            normalise_f32(data_of<float>(x) + begin * step, step, data_of<float>(weight), end - begin, size, static_cast<float>(eps), data_of<float>(out) + begin * size, factor);
    });
    return out;
}

// The norm of rows as one node of the graph, which keeps x and a number for each row.
class RowNorm : public torch::autograd::Function<RowNorm> {
public:
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
        at::Tensor factors, out = forward_rows(x, weight, eps, factors);
        context->save_for_backward({x, weight, factors});
        return out;
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        const variable_list saved = context->get_saved_variables();
        const at::Tensor &x = saved[0], &weight = saved[1], &factors = saved[2], dy = gradients[0].contiguous();
        const std::int64_t rows = x.size(0), size = x.size(1), step = x.stride(0);
        const std::int64_t blocks = (rows + rows_a_block - 1) / rows_a_block;
        at::Tensor dx = at::empty({rows, size}, x.options()), parts = at::zeros({blocks, size}, factors.options());
        parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t b = begin; b < end; ++b) {
                const std::int64_t row = b * rows_a_block, count = std::min(rows_a_block, rows - row);
                const float* factor = factors.const_data_ptr<float>() + row;
                float* dw = parts.mutable_data_ptr<float>() + b * size;
                if (x.scalar_type() == at::kBFloat16)
                    gradient_bf16(data_of<std::uint16_t>(x) + row * step, step, data_of<std::uint16_t>(weight), factor, data_of<std::uint16_t>(dy) + row * size, count, size, data_of<std::uint16_t>(dx) + row * size, dw);
                else
                    gradient_f32(data_of<float>(x) + row * step, step, data_of<float>(weight), factor, data_of<float>(dy) + row * size, count, size, data_of<float>(dx) + row * size, dw);
            }
        });
        return {dx, context->needs_input_grad(1) ? parts.sum(0).to(weight.scalar_type()) : at::Tensor(), {}};
    }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    const bool has_kernel = x.is_cpu() && (x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat) && weight.scalar_type() == x.scalar_type() && weight.is_contiguous();
    if (!has_kernel || x.numel() == 0) return at::rms_norm(x, weight.sizes(), weight, eps);
    // Heads [B, H, L, d] are a view of [B, L, H, d].
    if (x.dim() == 4 && !x.is_contiguous() && x.transpose(1, 2).is_contiguous()) return rms_norm(x.transpose(1, 2), weight, eps).transpose(1, 2);
    at::Tensor rows = x.reshape({-1, x.size(-1)});
    if (rows.stride(1) != 1) rows = rows.contiguous();
    at::Tensor factors;
    const bool differentiable = at::GradMode::is_enabled() && (rows.requires_grad() || weight.requires_grad());
    return (differentiable ? RowNorm::apply(rows, weight, eps) : forward_rows(rows, weight, eps, factors)).view(x.sizes());
}

}  // namespace mixwright::ops
