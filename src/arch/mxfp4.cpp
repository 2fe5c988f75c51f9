#include "arch/mxfp4.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;
using checkpoint::TensorSource;

constexpr std::string_view blocks_suffix = "_blocks", scales_suffix = "_scales";
constexpr std::size_t block_bytes = 16, block_values = 32;

struct Pair {
    const TensorInfo *blocks, *scales;
};

// One block: the values times 2^(scale - 127), as bf16. Every product is exact: two bits of mantissa and an exponent.
void decode_block(const std::byte* packed, std::uint8_t scale, std::uint16_t* out) {
    constexpr std::array<float, 8> magnitudes{0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    const float factor = std::ldexp(1.0f, static_cast<int>(scale) - 127);
    const auto bf16 = [&](unsigned code) {
        const float value = (code & 8) != 0 ? -magnitudes[code & 7] : magnitudes[code & 7];
        return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value * factor) >> 16);
    };
    for (std::size_t i = 0; i < block_bytes; ++i) {
        const auto byte = std::to_integer<unsigned>(packed[i]);
        out[2 * i] = bf16(byte & 15);
        out[2 * i + 1] = bf16(byte >> 4);
    }
}

class DecodedMxfp4 final : public TensorSource {
public:
    DecodedMxfp4(std::shared_ptr<const TensorSource> source, std::map<std::string, Pair> pairs) : source_(std::move(source)), pairs_(std::move(pairs)) {
        for (const TensorInfo& info : source_->tensors()) {
            if (const auto pair = pairs_.find(info.name); pair != pairs_.end()) {
                std::vector<std::int64_t> shape(info.shape.begin(), info.shape.end() - 1);
                shape.back() *= static_cast<std::int64_t>(block_values);
                infos_.push_back({info.name, Dtype::bf16, std::move(shape)});
            } else if (!is_scales(info.name)) {
                infos_.push_back(info);
            }
        }
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo& info) const override { return source_->where(stored(info)); }
    void drop(const TensorInfo& info) const override {
        source_->drop(stored(info));
        if (const auto pair = pairs_.find(info.name); pair != pairs_.end()) source_->drop(*pair->second.scales);
    }

    TensorBytes bytes(const TensorInfo& info) const override {
        return pairs_.contains(info.name) ? slice(info, 0, info.num_bytes()) : source_->bytes(stored(info));
    }

    TensorBytes slice(const TensorInfo& info, std::uint64_t offset, std::uint64_t length) const override {
        if (!pairs_.contains(info.name)) return source_->slice(stored(info), offset, length);
        auto buffer = std::make_shared<std::vector<std::byte>>(length);
        read(info, offset, *buffer);
        return {{buffer->data(), buffer->size()}, buffer, false};
    }

    void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override {
        const auto it = pairs_.find(info.name);
        if (it == pairs_.end()) return source_->read(stored(info), offset, out);
        if (out.empty()) return;
        constexpr std::uint64_t decoded = block_values * sizeof(std::uint16_t);
        const std::uint64_t first = offset / decoded, last = (offset + out.size() - 1) / decoded;
        const TensorBytes blocks = source_->slice(*it->second.blocks, first * block_bytes, (last - first + 1) * block_bytes);
        const TensorBytes scales = source_->slice(*it->second.scales, first, last - first + 1);
        std::array<std::uint16_t, block_values> values;
        for (std::uint64_t block = first; block <= last; ++block) {
            decode_block(blocks.bytes.data() + (block - first) * block_bytes, std::to_integer<std::uint8_t>(scales.bytes[block - first]), values.data());
            const std::uint64_t begin = std::max(offset, block * decoded), end = std::min(offset + out.size(), (block + 1) * decoded);
            std::memcpy(out.data() + (begin - offset), reinterpret_cast<const std::byte*>(values.data()) + (begin - block * decoded), end - begin);
        }
    }

private:
    bool is_scales(const std::string& name) const {
        return std::ranges::any_of(pairs_, [&](const auto& entry) { return entry.second.scales->name == name; });
    }
    const TensorInfo& stored(const TensorInfo& info) const { return source_->at(info.name); }

    std::shared_ptr<const TensorSource> source_;
    std::map<std::string, Pair> pairs_;
    std::vector<TensorInfo> infos_;
};

}  // namespace

std::shared_ptr<const TensorSource> decode_mxfp4(std::shared_ptr<const TensorSource> source) {
    std::map<std::string, Pair> pairs;
    for (const TensorInfo& blocks : source->tensors()) {
        if (!blocks.name.ends_with(blocks_suffix) || blocks.dtype != Dtype::u8) continue;
        if (blocks.shape.size() < 2 || blocks.shape.back() != static_cast<std::int64_t>(block_bytes))
            throw Error(ErrorCode::mismatch, fmt::format("{}: {} are no MXFP4 blocks (got {}, expected [.., 16])", source->where(blocks),
                                                         printable(blocks.name), checkpoint::shape_text(blocks.shape)));
        const std::string name = blocks.name.substr(0, blocks.name.size() - blocks_suffix.size()) + std::string(scales_suffix);
        const TensorInfo* scales = source->find(name);
        const std::vector<std::int64_t> expected(blocks.shape.begin(), blocks.shape.end() - 1);
        if (scales == nullptr || scales->dtype != Dtype::u8 || scales->shape != expected)
            throw Error(ErrorCode::mismatch, fmt::format("{}: the scales of {} {} (expected U8 {})", source->where(blocks), printable(blocks.name),
                                                         scales == nullptr ? "are missing" : "do not fit", checkpoint::shape_text(expected)));
        pairs.emplace(blocks.name, Pair{&blocks, scales});
    }
    if (pairs.empty()) return source;
    return std::make_shared<DecodedMxfp4>(std::move(source), std::move(pairs));
}

}  // namespace mixwright::arch
