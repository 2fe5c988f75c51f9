// Products of two matrices of a mixture's size, for training: an expert sees a hundred rows or so, where a library spends much of its
// time on getting ready, and its rows lie scattered among those of all tokens. Here rows are gathered, bf16 is widened and transposed
// factors are turned while a block of them is copied into the cache anyway; f32 rows that need none of it are read as they lie. Sums are
// f32. Written with Highway, chosen for the CPU at run time; knows no tensors and starts no threads.
#pragma once

#include <cstdint>

#include "kernels/matvec.h"

namespace mixwright::kernels {

/// A factor as it lies in memory: rows of f32 or bf16 (Format), `stride` elements apart.
struct Factor {
    const void* values;
    Format format;
    std::int64_t stride;
    bool transposed = false;                // the factor is what is stored, on its side
    const std::int32_t* row_of = nullptr;   // stored row i is row row_of[i] of `values`; null: row i
};

/// Where the product goes: rows of f32 or bf16.
struct Product {
    void* values;
    Format format;
    std::int64_t stride;
};

/// Rows of a that are worked on at a time; parts of a product are best multiples of it.
constexpr std::int64_t gemm_rows = 96;

/// c [m, n] = a [m, k] b [k, n]; with k = 0 zeros. bf16 results are rounded once.
void gemm(const Factor& a, const Factor& b, std::int64_t m, std::int64_t k, std::int64_t n, const Product& c);

}  // namespace mixwright::kernels
