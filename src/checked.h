// Arithmetic on numbers that come out of files. Every such sum or product goes through here: a wrapped size
// is how model loaders have been broken again and again.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "error.h"

namespace mixwright {

/// a + b, or Error(malformed) naming `what` when it does not fit T.
template <std::integral T>
T checked_add(T a, T b, const char* what) {
    T result;
    if (__builtin_add_overflow(a, b, &result))
        throw Error(ErrorCode::malformed, std::string(what) + ": the sum overflows");
    return result;
}

/// a * b, or Error(malformed) naming `what` when it does not fit T.
template <std::integral T>
T checked_mul(T a, T b, const char* what) {
    T result;
    if (__builtin_mul_overflow(a, b, &result))
        throw Error(ErrorCode::malformed, std::string(what) + ": the product overflows");
    return result;
}

/// `value` as To, or Error(malformed) naming `what` when it does not fit.
template <std::integral To, std::integral From>
To checked_cast(From value, const char* what) {
    if (!std::in_range<To>(value))
        throw Error(ErrorCode::malformed, std::string(what) + ": " + std::to_string(value) + " is out of range");
    return static_cast<To>(value);
}

/// Product of the dimensions of `shape` (1 for a scalar); Error(malformed) on a negative one or overflow.
inline std::int64_t checked_numel(std::span<const std::int64_t> shape, const char* what) {
    std::int64_t count = 1;
    for (const std::int64_t dim : shape) {
        if (dim < 0) throw Error(ErrorCode::malformed, std::string(what) + ": a dimension is negative");
        count = checked_mul(count, dim, what);
    }
    return count;
}

}  // namespace mixwright
