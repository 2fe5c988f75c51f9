#include "ops/expert_rows.h"

#include <ATen/ATen.h>

#include "ops/fast_math.h"
#include "ops/parallel.h"

namespace mixwright::ops {
namespace {

constexpr std::int64_t rows_a_task = 16;

bool has_kernel(const at::Tensor& tensor) {
    return tensor.is_cpu() && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
}

MIXWRIGHT_INLINE float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

template <class T>
MIXWRIGHT_INLINE void swiglu(const T* hidden, T* out, std::int64_t rows, std::int64_t width) {
    for (std::int64_t m = 0; m < rows; ++m) {
        const T* gate = hidden + 2 * m * width;
        const T* up = gate + width;
        for (std::int64_t f = 0; f < width; ++f) {
            const float g = widen(gate[f]);
            out[m * width + f] = narrow<T>(g * sigmoid(g) * widen(up[f]));
        }
    }
}

template <class T>
struct SwigluGradientRows {
    const T *hidden, *d_output;
    const float* weights;
    T *d_hidden, *weighted;
    float* d_weights;
};

template <class T>
MIXWRIGHT_INLINE void swiglu_gradient(const SwigluGradientRows<T>& r, std::int64_t begin, std::int64_t end, std::int64_t width) {
    for (std::int64_t m = begin; m < end; ++m) {
        const T* __restrict gate = r.hidden + 2 * m * width;
        const T* __restrict up = gate + width;
        const T* __restrict d_output = r.d_output + m * width;
        T* __restrict d_gate = r.d_hidden + 2 * m * width;
        T* __restrict d_up = d_gate + width;
        T* __restrict weighted = r.weighted + m * width;
        const float weight = r.weights[m];
        constexpr std::int64_t lanes = 16;
        float sums[lanes] = {};
        const auto one = [&](std::int64_t f) __attribute__((always_inline)) {
            const float g = widen(gate[f]), u = widen(up[f]), d = widen(d_output[f]);
            const float s = sigmoid(g), silu = g * s;
            const float output = silu * u;
            d_gate[f] = narrow<T>(weight * d * u * (s + silu * (1.0f - s)));
            d_up[f] = narrow<T>(weight * d * silu);
            weighted[f] = narrow<T>(weight * output);
            return d * output;
        };
        std::int64_t f = 0;
        for (; f + lanes <= width; f += lanes)
            for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += one(f + lane);
        float sum = 0;
        for (; f < width; ++f) sum += one(f);
        for (const float part : sums) sum += part;
        r.d_weights[m] = sum;
    }
}

template <class T>
MIXWRIGHT_INLINE void combine(const T* rows, const std::int64_t* positions, const float* weights, std::int64_t top_k, float* sums, T* out,
                              std::int64_t width) {
    for (std::int64_t d = 0; d < width; ++d) sums[d] = 0;
    for (std::int64_t k = 0; k < top_k; ++k) {
        const T* __restrict row = rows + positions[k] * width;
        const float weight = weights != nullptr ? weights[k] : 1.0f;
        for (std::int64_t d = 0; d < width; ++d) sums[d] += weight * widen(row[d]);
    }
    for (std::int64_t d = 0; d < width; ++d) out[d] = narrow<T>(sums[d]);
}

MIXWRIGHT_VECTORISED void swiglu_f32(const float* __restrict hidden, float* __restrict out, std::int64_t rows, std::int64_t width) {
    swiglu(hidden, out, rows, width);
}
MIXWRIGHT_VECTORISED void swiglu_bf16(const std::uint16_t* __restrict hidden, std::uint16_t* __restrict out, std::int64_t rows, std::int64_t width) {
    swiglu(hidden, out, rows, width);
}
MIXWRIGHT_VECTORISED void swiglu_gradient_f32(const SwigluGradientRows<float>& r, std::int64_t begin, std::int64_t end, std::int64_t width) {
    swiglu_gradient(r, begin, end, width);
}
MIXWRIGHT_VECTORISED void swiglu_gradient_bf16(const SwigluGradientRows<std::uint16_t>& r, std::int64_t begin, std::int64_t end, std::int64_t width) {
    swiglu_gradient(r, begin, end, width);
}
MIXWRIGHT_VECTORISED void combine_f32(const float* rows, const std::int64_t* positions, const float* weights, std::int64_t top_k,
                                      float* __restrict sums, float* __restrict out, std::int64_t width) {
    combine(rows, positions, weights, top_k, sums, out, width);
}
MIXWRIGHT_VECTORISED void combine_bf16(const std::uint16_t* rows, const std::int64_t* positions, const float* weights, std::int64_t top_k,
                                       float* __restrict sums, std::uint16_t* __restrict out, std::int64_t width) {
    combine(rows, positions, weights, top_k, sums, out, width);
}

template <class T>
SwigluGradientRows<T> gradient_rows(const at::Tensor& hidden, const at::Tensor& d_output, const at::Tensor& weights, SwigluGradient& out) {
    const auto in = [](const at::Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
    const auto to = [](at::Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); };
    return {in(hidden), in(d_output), weights.const_data_ptr<float>(), to(out.hidden), to(out.weighted), out.weights.mutable_data_ptr<float>()};
}

}  // namespace

at::Tensor swiglu_rows(const at::Tensor& hidden) {
    const std::int64_t rows = hidden.size(0), width = hidden.size(1) / 2;
    if (!has_kernel(hidden)) return at::silu(hidden.narrow(1, 0, width)) * hidden.narrow(1, width, width);
    at::Tensor out = at::empty({rows, width}, hidden.options());
    const void* in = hidden.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const bool bf16 = hidden.scalar_type() == at::kBFloat16;
    parallel_for(0, rows, rows_a_task, [&](std::int64_t begin, std::int64_t end) {
        if (bf16)
            swiglu_bf16(static_cast<const std::uint16_t*>(in) + 2 * begin * width, static_cast<std::uint16_t*>(to) + begin * width, end - begin, width);
        else
            swiglu_f32(static_cast<const float*>(in) + 2 * begin * width, static_cast<float*>(to) + begin * width, end - begin, width);
    });
    return out;
}

SwigluGradient swiglu_rows_gradient(const at::Tensor& hidden, const at::Tensor& d_output, const at::Tensor& weights) {
    const std::int64_t rows = hidden.size(0), width = hidden.size(1) / 2;
    if (!has_kernel(hidden)) {
        const at::Tensor gate = hidden.narrow(1, 0, width), up = hidden.narrow(1, width, width), s = at::sigmoid(gate);
        const at::Tensor silu = gate * s, output = silu * up, weight = weights.unsqueeze(1).to(hidden.scalar_type());
        const at::Tensor d_gate = weight * d_output * up * (s + silu * (1 - s));
        return {at::cat({d_gate, weight * d_output * silu}, 1), (d_output * output).sum(1).to(weights.scalar_type()), weight * output};
    }
    SwigluGradient out{at::empty_like(hidden), at::empty_like(weights), at::empty_like(d_output)};
    const bool bf16 = hidden.scalar_type() == at::kBFloat16;
    parallel_for(0, rows, rows_a_task, [&](std::int64_t begin, std::int64_t end) {
        if (bf16)
            swiglu_gradient_bf16(gradient_rows<std::uint16_t>(hidden, d_output, weights, out), begin, end, width);
        else
            swiglu_gradient_f32(gradient_rows<float>(hidden, d_output, weights, out), begin, end, width);
    });
    return out;
}

at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& positions, const at::Tensor& weights) {
    const std::int64_t tokens = positions.size(0), top_k = positions.size(1), width = rows.size(1);
    if (!has_kernel(rows)) {
        at::Tensor gathered = rows.index_select(0, positions.reshape({-1})).view({tokens, top_k, width});
        if (weights.defined()) gathered = gathered * weights.unsqueeze(2);
        return gathered.sum(1).to(rows.scalar_type());
    }
    at::Tensor out = at::empty({tokens, width}, rows.options());
    const bool bf16 = rows.scalar_type() == at::kBFloat16;
    const auto* position = positions.const_data_ptr<std::int64_t>();
    const float* weight = weights.defined() ? weights.const_data_ptr<float>() : nullptr;
    const void* in = rows.const_data_ptr();
    void* to = out.mutable_data_ptr();
    parallel_for(0, tokens, rows_a_task, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> sums(static_cast<std::size_t>(width));
        for (std::int64_t n = begin; n < end; ++n) {
            const float* own_weights = weight != nullptr ? weight + n * top_k : nullptr;
            if (bf16)
                combine_bf16(static_cast<const std::uint16_t*>(in), position + n * top_k, own_weights, top_k, sums.data(),
                             static_cast<std::uint16_t*>(to) + n * width, width);
            else
                combine_f32(static_cast<const float*>(in), position + n * top_k, own_weights, top_k, sums.data(), static_cast<float*>(to) + n * width, width);
        }
    });
    return out;
}

}  // namespace mixwright::ops
