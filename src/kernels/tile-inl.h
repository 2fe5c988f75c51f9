// The heart of every product of matrices here: a tile of results in registers, for whichever target includes this.
#if defined(MIXWRIGHT_KERNELS_TILE_INL) == defined(HWY_TARGET_TOGGLE)  // once for every target
#ifdef MIXWRIGHT_KERNELS_TILE_INL
#undef MIXWRIGHT_KERNELS_TILE_INL
#else
#define MIXWRIGHT_KERNELS_TILE_INL
#endif

#include "kernels/bf16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mixwright::kernels {
namespace HWY_NAMESPACE {

// Results of so many rows by two vectors of columns are kept, beside one value of a row and the two vectors it meets.
constexpr int rows_at_once = hn::MaxLanes(F32()) >= 16 ? 12 : 6;

HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(F32())); }
HWY_INLINE std::int64_t tile_width() { return 2 * lanes(); }

// R rows, [R, depth] and `row_stride` apart or, turned, [depth, R] without gaps, times a panel [depth, tile_width] into out, whose rows are
// `stride` apart; added to what is there when `add`.
template <int R, bool turned, bool add>
HWY_INLINE void tile(const float* HWY_RESTRICT rows, std::int64_t row_stride, std::int64_t depth, const float* HWY_RESTRICT panel, float* HWY_RESTRICT out, std::int64_t stride) {
    const F32 d;
    VF low[R], high[R];
    for (int r = 0; r < R; ++r) low[r] = high[r] = hn::Zero(d);  // also when there are sums already: many short ones lose less than a long one
    for (std::int64_t k = 0; k < depth; ++k) {
        const VF first = hn::Load(d, panel + k * tile_width()), second = hn::Load(d, panel + k * tile_width() + lanes());
        for (int r = 0; r < R; ++r) {
            const VF value = hn::Set(d, turned ? rows[k * R + r] : rows[r * row_stride + k]);
            low[r] = hn::MulAdd(value, first, low[r]);
            high[r] = hn::MulAdd(value, second, high[r]);
        }
    }
    for (int r = 0; r < R; ++r) {
        float *to_low = out + r * stride, *to_high = to_low + lanes();
        hn::StoreU(add ? hn::Add(hn::LoadU(d, to_low), low[r]) : low[r], d, to_low);
        hn::StoreU(add ? hn::Add(hn::LoadU(d, to_high), high[r]) : high[r], d, to_high);
    }
}

template <int R>
HWY_INLINE void tile(bool turned, bool add, const float* rows, std::int64_t row_stride, std::int64_t depth, const float* panel, float* out, std::int64_t stride) {
    if (turned)
        add ? tile<R, true, true>(rows, row_stride, depth, panel, out, stride) : tile<R, true, false>(rows, row_stride, depth, panel, out, stride);
    else
        add ? tile<R, false, true>(rows, row_stride, depth, panel, out, stride) : tile<R, false, false>(rows, row_stride, depth, panel, out, stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace mixwright::kernels
HWY_AFTER_NAMESPACE();

#endif
