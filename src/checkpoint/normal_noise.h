// Normal deviates that are a function of seed, tensor name and element alone, so that chunks and restarts do not matter.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace mixwright::checkpoint {

inline std::uint64_t mix(std::uint64_t x) {  // the finaliser of SplitMix64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

inline std::uint64_t name_hash(std::string_view name) {  // FNV-1a
    std::uint64_t hash = 0xCBF29CE484222325;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
    return hash;
}

/// The stream of the tensor `name`.
inline std::uint64_t noise_stream(std::string_view name, std::uint64_t seed) { return mix(seed ^ mix(name_hash(name))); }

/// Element `element` of a stream, by Box and Muller.
inline float normal(std::uint64_t stream, std::uint64_t element) {
    const std::uint64_t bits = mix(stream + 0x9E3779B97F4A7C15 * (element + 1));
    const double radius_uniform = (static_cast<double>(bits >> 32) + 1) * 0x1p-32, angle_uniform = static_cast<double>(bits & 0xFFFFFFFF) * 0x1p-32;
    return static_cast<float>(std::sqrt(-2 * std::log(radius_uniform)) * std::cos(2 * std::numbers::pi * angle_uniform));
}

}  // namespace mixwright::checkpoint
