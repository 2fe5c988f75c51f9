// Random weights in every format, for tests of products.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/quantize.h"

namespace mixwright::kernels {

inline std::uint16_t to_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

// Random weights in one format, and what they stand for.
struct Sample {
    Sample(Format format, std::int64_t rows, std::int64_t cols, unsigned seed = 1) : weights{format, rows, cols} {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        const auto count = static_cast<std::size_t>(rows * cols);
        for (std::size_t i = 0; i < count; ++i) truth.push_back(from_bf16(to_bf16(normal(random))));
        if (format == Format::f32) {
            bytes.resize(count * 4);
            std::copy(truth.begin(), truth.end(), reinterpret_cast<float*>(bytes.data()));
        } else if (format == Format::bf16) {
            bytes.resize(count * 2);
            std::transform(truth.begin(), truth.end(), reinterpret_cast<std::uint16_t*>(bytes.data()), to_bf16);
        } else {
            bytes.resize(static_cast<std::size_t>(rows * row_bytes(format, cols)));
            scales.resize(static_cast<std::size_t>(scale_bytes(format, rows, cols)));
            const Weights exact{Format::f32, rows, cols, truth.data()};
            quantize(exact, 0, rows, format, bytes.data(), scales.data());
            weights.scales = scales.data();
        }
        weights.values = bytes.data();
        if (format == Format::int8 || format == Format::int4) {
            std::vector<std::uint16_t> back(count);
            dequantize(weights, 0, rows, back.data());
            for (std::size_t i = 0; i < count; ++i) {
                error += std::pow(from_bf16(back[i]) - truth[i], 2) / static_cast<double>(count);
                truth[i] = from_bf16(back[i]);
            }
        }
    }

    Weights weights;
    std::vector<float> truth;
    std::vector<std::byte> bytes, scales;
    double error = 0;  // mean square of the quantisation
};

inline std::vector<float> normal_rows(std::int64_t rows, std::int64_t cols) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(rows * cols));
    for (float& value : x) value = from_bf16(to_bf16(normal(random)));
    return x;
}

}  // namespace mixwright::kernels
