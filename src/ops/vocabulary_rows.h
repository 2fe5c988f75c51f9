// Rows of logits on the CPU, in plain loops that the compiler vectorises: call these inside functions marked MIXWRIGHT_VECTORISED.
#pragma once

#include <cmath>
#include <cstdint>

#include "ops/fast_math.h"

namespace mixwright::ops {

/// log sum_i exp(sharpness * row[i]); sharpness is positive.
template <class T>
MIXWRIGHT_INLINE float log_sum_exp(const T* row, std::int64_t width, float sharpness = 1.0f) {
    float highest = -INFINITY;
    for (std::int64_t i = 0; i < width; ++i) highest = widen(row[i]) > highest ? widen(row[i]) : highest;
    highest *= sharpness;
    // Partial sums: one long sum in f32 would lose the small terms, and would not vectorise.
    constexpr std::int64_t lanes = 64;
    float sums[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= width; i += lanes)
        for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += fast_exp(sharpness * widen(row[i + lane]) - highest);
    double sum = 0;
    for (; i < width; ++i) sum += fast_exp(sharpness * widen(row[i]) - highest);
    for (const float part : sums) sum += part;
    return highest + std::log(static_cast<float>(sum));
}

}  // namespace mixwright::ops
