#include "ops/row_pieces.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

namespace mixwright::ops {
namespace {

std::vector<std::int64_t> all_pieces(std::int64_t rows, std::int64_t bytes, std::int64_t threads) {
    RowPieces sizes(rows, bytes, threads);
    std::vector<std::int64_t> pieces;
    for (std::int64_t begin = 0; begin < rows; begin += pieces.back()) pieces.push_back(sizes.next(rows - begin));
    return pieces;
}

TEST(RowPieces, CoverAllRowsWithinTheirLimits) {
    for (const std::int64_t rows : {1, 3, 4, 5, 63, 511, 512, 513, 3072, 49152})
        for (const std::int64_t bytes : {1, 576, 40'000, 1'000'000})
            for (const std::int64_t threads : {1, 2, 7, 64}) {
                std::int64_t covered = 0;
                for (const std::int64_t piece : all_pieces(rows, bytes, threads)) {
                    ASSERT_GT(piece, 0);
                    ASSERT_LE(piece, RowPieces::most);
                    covered += piece;
                }
                EXPECT_EQ(covered, rows);
            }
}

TEST(RowPieces, BeginLongAndEndShort) {
    const std::vector<std::int64_t> pieces = all_pieces(3072, 576, 4);
    EXPECT_EQ(pieces.front(), 384);
    EXPECT_TRUE(std::ranges::is_sorted(pieces.begin(), pieces.end() - 1, std::greater()));
    EXPECT_LT(pieces.back() * 576, 64 << 10);  // nobody waits longer than for two of the least
}

TEST(RowPieces, TakeWhatIsLeftOfAMatrix) {
    RowPieces sizes(2000, 1024, 2);
    EXPECT_EQ(sizes.next(100), 100);  // a small matrix before a large one
    EXPECT_EQ(sizes.next(1900), 476);
}

}  // namespace
}  // namespace mixwright::ops
