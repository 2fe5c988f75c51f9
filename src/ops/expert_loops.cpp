#include "ops/expert_loops.h"

#include "ops/fast_math.h"

namespace mixwright::ops {
namespace {

template <class T>
MIXWRIGHT_INLINE void silu_times(const T* gate, const T* up, std::int64_t count, T* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float g = widen(gate[i]);
        out[i] = narrow<T>(g / (1.0f + fast_exp(-g)) * widen(up[i]));
    }
}

}  // namespace

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

}  // namespace mixwright::ops
