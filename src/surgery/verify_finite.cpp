#include "surgery/verify_finite.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "checkpoint/convert.h"
#include "error.h"
#include "progress.h"

namespace mixwright::surgery {
namespace {

constexpr std::size_t block_elements = 256 << 10;
constexpr std::size_t max_listed = 10;

std::int64_t count_non_finite(const checkpoint::Piece& piece) {
    const checkpoint::TensorBytes stored = piece.source->bytes(piece.tensor);
    const std::size_t size = dtype_bytes(piece.tensor.dtype);
    std::vector<float> values(block_elements);
    std::int64_t count = 0;
    for (std::size_t start = 0; start < stored.bytes.size(); start += block_elements * size) {
        const std::size_t bytes = std::min(block_elements * size, stored.bytes.size() - start);
        const std::span block = std::span(values).first(bytes / size);
        checkpoint::to_float(stored.bytes.subspan(start, bytes), piece.tensor.dtype, block);
        count += std::ranges::count_if(block, [](float value) { return !std::isfinite(value); });
    }
    piece.source->drop(piece.tensor);
    return count;
}

}  // namespace

void verify_finite(const checkpoint::OutputPlan& plan) {
    std::vector<const checkpoint::Piece*> pieces;
    std::set<std::pair<const void*, std::string>> seen;
    std::uint64_t total = 0;
    for (const auto& tensor : plan.tensors)
        if (const auto* of_tensor = std::get_if<checkpoint::Pieces>(&tensor.content))
            for (const checkpoint::Piece& piece : *of_tensor)
                if (is_floating(piece.tensor.dtype) && seen.emplace(piece.source.get(), piece.tensor.name).second) {
                    pieces.push_back(&piece);
                    total += piece.tensor.num_bytes();
                }
    Progress progress("verifying weights", total, "B");
    std::string problems;
    std::size_t num_problems = 0;
    for (const checkpoint::Piece* piece : pieces) {
        if (const auto count = count_non_finite(*piece); count > 0 && num_problems++ < max_listed)
            problems += fmt::format("\n  {}: {}: {} of {} values are NaN or infinite", piece->source->where(piece->tensor),
                                    printable(piece->tensor.name), count, piece->tensor.numel());
        progress.advance(piece->tensor.num_bytes());
    }
    if (num_problems == 0) return;
    throw Error(ErrorCode::malformed, fmt::format("{} tensors hold values that are not numbers:{}{}", num_problems, problems,
                                                  num_problems > max_listed ? "\n  ..." : ""),
                "download the model again, or choose another: one such weight makes every output NaN");
}

}  // namespace mixwright::surgery
