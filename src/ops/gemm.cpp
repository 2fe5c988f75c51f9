#include "ops/gemm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "ops/kernel_use.h"
#include "ops/parallel.h"

namespace mixwright::ops {
namespace {

kernels::Format format_of(const at::Tensor& x) { return x.scalar_type() == at::kFloat ? kernels::Format::f32 : kernels::Format::bf16; }

std::int64_t bytes_of(kernels::Format format) { return format == kernels::Format::f32 ? 4 : 2; }

const void* moved(const void* values, std::int64_t elements, kernels::Format format) { return static_cast<const char*>(values) + elements * bytes_of(format); }

// The factor without its first rows (of `transposed` ones: columns) as they lie in memory.
void skip_stored_rows(kernels::Factor& factor, std::int64_t count) {
    if (factor.row_of != nullptr)
        factor.row_of += count;
    else
        factor.values = moved(factor.values, count * factor.stride, factor.format);
}
void skip_stored_columns(kernels::Factor& factor, std::int64_t count) { factor.values = moved(factor.values, count, factor.format); }

// Rows [first, first + count) of the product.
GemmCall rows_of(GemmCall call, std::int64_t first, std::int64_t count) {
    call.a.transposed ? skip_stored_columns(call.a, first) : skip_stored_rows(call.a, first);
    call.c.values = const_cast<void*>(moved(call.c.values, first * call.c.stride, call.c.format));
    call.m = count;
    return call;
}

// Columns [first, first + count) of the product.
GemmCall columns_of(GemmCall call, std::int64_t first, std::int64_t count) {
    call.b.transposed ? skip_stored_rows(call.b, first) : skip_stored_columns(call.b, first);
    call.c.values = const_cast<void*>(moved(call.c.values, first, call.c.format));
    call.n = count;
    return call;
}

// Parts of the product's longer side, so that what every part packs anew is the smaller factor; `most` is what no part need be larger than.
void add_pieces(const GemmCall& call, double most, std::vector<GemmCall>& pieces) {
    const bool by_rows = call.m >= call.n;
    const std::int64_t whole = by_rows ? call.m : call.n, other = by_rows ? call.n : call.m;
    const double wanted = most / static_cast<double>(std::max<std::int64_t>(1, other * call.k));
    const std::int64_t step = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::min(wanted, static_cast<double>(whole))) / kernels::gemm_rows) * kernels::gemm_rows;
    for (std::int64_t first = 0; first < whole; first += step) {
        const std::int64_t count = std::min(step, whole - first);
        pieces.push_back(by_rows ? rows_of(call, first, count) : columns_of(call, first, count));
    }
}

}  // namespace

bool gemm_applies(const at::Tensor& x) {
    return x.is_cpu() && (x.scalar_type() == at::kFloat || (x.scalar_type() == at::kBFloat16 && !has_fast_products(at::kBFloat16)));
}

kernels::Factor factor_of(const at::Tensor& matrix) {
    // Of one row or column either stride may be anything.
    const bool transposed = matrix.stride(1) != 1 && matrix.size(1) > 1;
    TORCH_CHECK(!transposed || matrix.stride(0) == 1 || matrix.size(0) <= 1, "a factor of a product lies scattered");
    return {matrix.const_data_ptr(), format_of(matrix), matrix.stride(transposed ? 1 : 0), transposed};
}

kernels::Product product_of(const at::Tensor& matrix) {
    return {matrix.mutable_data_ptr(), format_of(matrix), matrix.stride(0)};
}

void run_gemms(std::span<const GemmCall> calls) {
    constexpr double pieces_of_a_thread = 4;
    double work = 0;
    for (const GemmCall& call : calls) work += static_cast<double>(call.m) * static_cast<double>(call.k) * static_cast<double>(call.n);
    std::vector<GemmCall> pieces;
    for (const GemmCall& call : calls) add_pieces(call, work / (pieces_of_a_thread * static_cast<double>(at::get_num_threads())), pieces);
    // On libtorch's own threads, as the operations before and after; whoever is free takes the next piece.
    std::atomic<std::size_t> next = 0;
    parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t, std::int64_t) {
        for (std::size_t i = next++; i < pieces.size(); i = next++) kernels::gemm(pieces[i].a, pieces[i].b, pieces[i].m, pieces[i].k, pieces[i].n, pieces[i].c);
    });
}

}  // namespace mixwright::ops
