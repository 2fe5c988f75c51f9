// bf16 bits and f32, one by one and a vector at a time, for whichever target includes this.
#if defined(MIXWRIGHT_KERNELS_BF16_INL) == defined(HWY_TARGET_TOGGLE)  // once for every target
#ifdef MIXWRIGHT_KERNELS_BF16_INL
#undef MIXWRIGHT_KERNELS_BF16_INL
#else
#define MIXWRIGHT_KERNELS_BF16_INL
#endif

#include <hwy/highway.h>

#include <bit>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace mixwright::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using VF = hn::Vec<F32>;

HWY_INLINE float widen(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
HWY_INLINE float widen(float value) { return value; }
// To nearest even.
HWY_INLINE std::uint16_t narrow(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

HWY_INLINE VF load_floats(const float* x) { return hn::LoadU(F32(), x); }
HWY_INLINE VF load_floats(const std::uint16_t* x) {
    const hn::ScalableTag<std::uint32_t> d;
    return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(d, hn::LoadU(hn::Rebind<std::uint16_t, decltype(d)>(), x))));
}

}  // namespace HWY_NAMESPACE
}  // namespace mixwright::kernels
HWY_AFTER_NAMESPACE();

#endif
