#include "ops/rope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "ops/rope_kernel.h"

namespace mixwright::ops {
namespace {

using arch::Rope;
using arch::RopeScaling;

// Frequencies of the rotating pairs, and the factor on cos and sin. The arithmetic is f32 where the oracle's is: angles of
// long sequences show the difference.
struct Frequencies {
    std::vector<float> inverse;
    double attention_factor = 1.0;
};

std::vector<float> base_frequencies(double theta, std::int64_t dim) {
    std::vector<float> inverse;
    for (std::int64_t i = 0; i < dim; i += 2)
        inverse.push_back(1.0f / std::pow(static_cast<float>(theta), static_cast<float>(i) / static_cast<float>(dim)));
    return inverse;
}

void scale_llama3(const Rope& rope, std::vector<float>& inverse) {
    const double old_length = rope.original_max_positions;
    const double longest_wave = old_length / rope.low_freq_factor, shortest_wave = old_length / rope.high_freq_factor;
    for (float& frequency : inverse) {
        const double wave = 2 * std::numbers::pi / frequency;
        if (wave > longest_wave) {
            frequency /= static_cast<float>(rope.factor);
        } else if (wave >= shortest_wave) {
            const double smooth = (old_length / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
            frequency = static_cast<float>((1 - smooth) * frequency / rope.factor + smooth * frequency);
        }
    }
}

double yarn_mscale(double scale, double mscale = 1.0) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

double scale_yarn(const Rope& rope, std::int64_t dim, std::vector<float>& inverse) {
    // The pair index at which a wave makes `rotations` turns over the original length.
    const auto pair_of = [&](double rotations) {
        return static_cast<double>(dim) * std::log(rope.original_max_positions / (rotations * 2 * std::numbers::pi)) /
               (2 * std::log(rope.theta));
    };
    double low = pair_of(rope.beta_fast > 0 ? rope.beta_fast : 32.0), high = pair_of(rope.beta_slow > 0 ? rope.beta_slow : 1.0);
    if (rope.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(dim - 1));
    if (low == high) high += 0.001;
    for (std::size_t i = 0; i < inverse.size(); ++i) {
        const double interpolated = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        inverse[i] = static_cast<float>(inverse[i] / rope.factor * interpolated + inverse[i] * (1 - interpolated));
    }
    if (rope.attention_factor) return *rope.attention_factor;
    if (rope.mscale.value_or(0) != 0 && rope.mscale_all_dim.value_or(0) != 0)
        return yarn_mscale(rope.factor, *rope.mscale) / yarn_mscale(rope.factor, *rope.mscale_all_dim);
    return yarn_mscale(rope.factor);
}

double scale_longrope(const Rope& rope, std::int64_t sequence_length, std::vector<float>& inverse) {
    const bool is_long = static_cast<double>(sequence_length) > rope.original_max_positions;
    const std::vector<double>& factors = is_long ? rope.long_factor : rope.short_factor;
    for (std::size_t i = 0; i < inverse.size(); ++i) inverse[i] /= static_cast<float>(factors[i]);
    if (const auto& mscale = is_long ? rope.long_mscale : rope.short_mscale) return *mscale;
    if (rope.attention_factor) return *rope.attention_factor;
    return rope.factor <= 1 ? 1.0 : std::sqrt(1 + std::log(rope.factor) / std::log(rope.original_max_positions));
}

Frequencies frequencies(const Rope& rope, std::int64_t dim, std::int64_t max_positions, std::int64_t sequence_length) {
    if (rope.scaling == RopeScaling::dynamic) {
        const double length = static_cast<double>(std::max(sequence_length, max_positions));
        const double stretch = rope.factor * length / static_cast<double>(max_positions) - (rope.factor - 1);
        const double exponent = static_cast<double>(dim) / static_cast<double>(dim - 2);
        return {base_frequencies(rope.theta * std::pow(stretch, exponent), dim), 1.0};
    }
    Frequencies result{base_frequencies(rope.theta, dim), 1.0};
    switch (rope.scaling) {
        case RopeScaling::none:
        case RopeScaling::dynamic: break;
        case RopeScaling::linear:
            for (float& frequency : result.inverse) frequency /= static_cast<float>(rope.factor);
            break;
        case RopeScaling::llama3: scale_llama3(rope, result.inverse); break;
        case RopeScaling::yarn: result.attention_factor = scale_yarn(rope, dim, result.inverse); break;
        case RopeScaling::longrope: result.attention_factor = scale_longrope(rope, sequence_length, result.inverse); break;
    }
    return result;
}

at::Tensor rotate_halves(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    const std::vector<at::Tensor> halves = x.chunk(2, -1);
    return x * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
}

at::Tensor rotate_neighbours(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    const at::Tensor even = x.slice(-1, 0, std::nullopt, 2), odd = x.slice(-1, 1, std::nullopt, 2);
    const at::Tensor c = cos.chunk(2, -1)[0], s = sin.chunk(2, -1)[0];
    return at::cat({even * c - odd * s, odd * c + even * s}, -1);
}

}  // namespace

RopeAngles rope_angles(const arch::Rope& rope, std::int64_t head_dim, std::int64_t max_positions, const at::Tensor& positions,
                       std::int64_t sequence_length) {
    const auto dim = static_cast<std::int64_t>(static_cast<double>(head_dim) * rope.partial) / 2 * 2;
    const Frequencies f = frequencies(rope, dim, max_positions, sequence_length);
    const at::Tensor inverse = at::tensor(f.inverse, at::kFloat).to(positions.device());
    const at::Tensor half = positions.to(at::kFloat).unsqueeze(-1) * inverse;  // [..., L, dim / 2]
    const at::Tensor angles = at::cat({half, half}, -1);
    return {angles.cos() * f.attention_factor, angles.sin() * f.attention_factor, rope.interleaved};
}

at::Tensor apply_rope(const at::Tensor& x, const RopeAngles& angles) {
    if (rope_kernel_applies(x)) return rotate_with_kernel(x, angles);
    // [L, d] broadcasts over B and H as it is; [B, L, d] needs the head dimension.
    const bool per_sequence = angles.cos.dim() == 3;
    const at::Tensor cos = (per_sequence ? angles.cos.unsqueeze(1) : angles.cos).to(x.scalar_type());
    const at::Tensor sin = (per_sequence ? angles.sin.unsqueeze(1) : angles.sin).to(x.scalar_type());
    const std::int64_t rotating = cos.size(-1);
    const at::Tensor head = rotating == x.size(-1) ? x : x.narrow(-1, 0, rotating);
    const at::Tensor rotated = angles.interleaved ? rotate_neighbours(head, cos, sin) : rotate_halves(head, cos, sin);
    if (rotating == x.size(-1)) return rotated;
    return at::cat({rotated, x.narrow(-1, rotating, x.size(-1) - rotating)}, -1);
}

}  // namespace mixwright::ops
