#include "checkpoint/tensor_scan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "checkpoint/convert.h"
#include "io/sha256.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::uint64_t chunk_bytes = 1u << 20;

// Written without branches, on the bits, so that the compiler makes vector code of it.
void count_values(std::span<const float> values, TensorScan& scan) {
    std::uint32_t nans = 0, infinities = 0, zeros = 0, largest = 0;
    for (const float value : values) {
        const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(value) & 0x7fffffffu;
        nans += magnitude > 0x7f800000u;
        infinities += magnitude == 0x7f800000u;
        zeros += magnitude == 0;
        largest = std::max(largest, magnitude < 0x7f800000u ? magnitude : 0);
    }
    scan.nans += nans;
    scan.infinities += infinities;
    scan.zeros += zeros;
    scan.largest = std::max(scan.largest, static_cast<double>(std::bit_cast<float>(largest)));
}

}  // namespace

TensorScan scan_tensor(const TensorSource& source, const TensorInfo& info, bool digest, const std::function<void(std::uint64_t)>& advance) {
    TensorScan scan{.values = static_cast<std::uint64_t>(info.numel())};
    const std::uint64_t total = info.num_bytes();
    const std::size_t value_bytes = dtype_bytes(info.dtype);
    std::vector<std::byte> bytes(std::min(total, chunk_bytes));
    std::vector<float> values(bytes.size() / value_bytes);
    io::Sha256 sha256;
    for (std::uint64_t offset = 0; offset < total;) {
        const auto piece = std::span(bytes).first(std::min(total - offset, chunk_bytes));
        source.read(info, offset, piece);
        if (digest) sha256.update(piece);
        if (is_floating(info.dtype)) {
            const auto floats = std::span(values).first(piece.size() / value_bytes);
            to_float(piece, info.dtype, floats);
            count_values(floats, scan);
        }
        offset += piece.size();
        advance(piece.size());
    }
    if (digest) scan.sha256 = sha256.hex();
    return scan;
}

}  // namespace mixwright::checkpoint
