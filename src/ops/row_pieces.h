// How rows of weights are cut into pieces that threads take in turn (work_sharing.h).
#pragma once

#include <algorithm>
#include <cstdint>

namespace mixwright::ops {

/// Sizes of pieces, ever smaller ones: a core fetches long runs of memory faster than short ones, and needs small ones
/// at the end, so that no thread waits long for another. (Guided self-scheduling, Polychronopoulos and Kuck 1987.)
class RowPieces {
public:
    static constexpr std::int64_t most = 512;

    /// `rows` of `bytes` each, for `threads`.
    RowPieces(std::int64_t rows, std::int64_t bytes, std::int64_t threads)
        : left_(rows), least_(std::clamp<std::int64_t>(least_bytes / std::max<std::int64_t>(1, bytes) / 4 * 4, 4, most)), threads_(threads) {}

    /// Rows of the next piece, out of `available` neighbours: at most `most`, and all when little would remain.
    std::int64_t next(std::int64_t available) {
        const std::int64_t share = std::clamp((left_ / (2 * threads_) + 3) / 4 * 4, least_, most);
        const std::int64_t rows = available < share + least_ && available <= most ? available : std::min(share, available);
        left_ -= rows;
        return rows;
    }

    /// Calls each(begin, end) for the pieces of neighbours [first, last).
    template <class Each>
    void cut(std::int64_t first, std::int64_t last, const Each& each) {
        for (std::int64_t begin = first, end = 0; begin < last; begin = end) {
            end = begin + next(last - begin);
            each(begin, end);
        }
    }

private:
    static constexpr std::int64_t least_bytes = 32 << 10;

    std::int64_t left_, least_, threads_;
};

}  // namespace mixwright::ops
