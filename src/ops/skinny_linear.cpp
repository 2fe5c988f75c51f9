#include "ops/skinny_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/quantize.h"
#include "ops/fast_math.h"
#include "ops/row_pieces.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {
namespace {

struct Product {
    kernels::Weights weights;
    const Linear* linear;
    at::Tensor out;  // [N, out]
};

// Rows of the weights of one product.
struct Piece {
    const Product* product;
    std::int64_t begin, end;
};

std::vector<Piece> pieces_of(const std::vector<Product>& products) {
    std::int64_t rows = 0;
    for (const Product& product : products) rows += product.weights.rows;
    const kernels::Weights& weights = products.front().weights;
    RowPieces sizes(rows, kernels::row_bytes(weights.format, weights.cols), at::get_num_threads());
    std::vector<Piece> pieces;
    for (const Product& product : products)
        sizes.cut(0, product.weights.rows, [&](std::int64_t begin, std::int64_t end) { pieces.push_back({&product, begin, end}); });
    return pieces;
}

template <class T>
void store(const float* sums, std::int64_t count, const at::Tensor& bias, std::int64_t first, T* out) {
    if (!bias.defined()) {
        for (std::int64_t i = 0; i < count; ++i) out[i] = narrow<T>(sums[i]);
    } else {
        const auto* b = static_cast<const T*>(bias.const_data_ptr()) + first;
        for (std::int64_t i = 0; i < count; ++i) out[i] = narrow<T>(sums[i] + widen(b[i]));
    }
}

void run_piece(const Piece& piece, const kernels::Activations& x, std::span<const std::int32_t> rows) {
    const auto [product, begin, end] = piece;
    const std::int64_t out_size = product->weights.rows, count = end - begin;
    std::array<float, max_skinny_rows * RowPieces::most> sums;
    kernels::multiply(product->weights, begin, end, x, rows, sums.data() - begin, count);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const float* row = sums.data() + static_cast<std::int64_t>(i) * count;
        const std::int64_t at = static_cast<std::int64_t>(i) * out_size + begin;
        if (product->out.scalar_type() == at::kBFloat16)
            store(row, count, product->linear->bias, begin, static_cast<std::uint16_t*>(product->out.data_ptr()) + at);
        else
            store(row, count, product->linear->bias, begin, static_cast<float*>(product->out.data_ptr()) + at);
    }
}

}  // namespace

kernels::Weights kernel_weights(const Linear& linear, std::int64_t cols) {
    const auto format = linear.weight.scalar_type() == at::kFloat      ? kernels::Format::f32
                        : linear.weight.scalar_type() == at::kBFloat16 ? kernels::Format::bf16
                        : linear.weight.scalar_type() == at::kChar     ? kernels::Format::int8
                                                                       : kernels::Format::int4;
    return {format, linear.weight.size(0), cols, linear.weight.const_data_ptr(), linear.scales.defined() ? linear.scales.const_data_ptr() : nullptr};
}

bool has_kernel_weights(const Linear& linear, const at::Tensor& x) {
    return linear.scales.defined() || (linear.weight.scalar_type() == x.scalar_type() && linear.weight.is_contiguous());
}

kernels::Activations activations_for(kernels::Format format, const at::Tensor& x) {
    const std::int64_t cols = x.size(1);
    if (x.scalar_type() == at::kBFloat16) return {format, static_cast<const std::uint16_t*>(x.const_data_ptr()), x.size(0), cols, cols};
    return {format, static_cast<const float*>(x.const_data_ptr()), x.size(0), cols, cols};
}

bool skinny_applies(std::span<const Linear* const> linears, const at::Tensor& x) {
    if (!kernels_apply(x) || x.numel() > max_skinny_rows * x.size(-1) || x.numel() == 0) return false;
    const kernels::Format format = kernel_weights(*linears.front(), x.size(-1)).format;
    return std::ranges::all_of(linears, [&](const Linear* linear) {
        return has_kernel_weights(*linear, x) && !linear->lora_a.defined() && kernel_weights(*linear, x.size(-1)).format == format &&
               (!linear->bias.defined() || (linear->bias.scalar_type() == x.scalar_type() && linear->bias.is_contiguous()));
    });
}

std::vector<at::Tensor> skinny_linears(std::span<const Linear* const> linears, const at::Tensor& x) {
    const std::int64_t cols = x.size(-1), num_rows = x.numel() / cols;
    const at::Tensor rows = x.contiguous().view({num_rows, cols});
    std::vector<Product> products;
    for (const Linear* linear : linears) {
        const kernels::Weights weights = kernel_weights(*linear, cols);
        products.push_back({weights, linear, at::empty({num_rows, weights.rows}, x.options())});
    }
    const std::vector<Piece> pieces = pieces_of(products);
    const kernels::Activations activations = activations_for(products.front().weights.format, rows);
    std::array<std::int32_t, max_skinny_rows> all_rows;
    std::iota(all_rows.begin(), all_rows.end(), 0);
    const std::span<const std::int32_t> order(all_rows.data(), static_cast<std::size_t>(num_rows));
    share_work(std::ssize(pieces), [&](std::int64_t i) { run_piece(pieces[static_cast<std::size_t>(i)], activations, order); });

    std::vector<at::Tensor> results;
    std::vector<std::int64_t> shape = x.sizes().vec();
    for (const Product& product : products) {
        shape.back() = product.weights.rows;
        results.push_back(product.out.view(shape));
    }
    return results;
}

at::Tensor dequantizing_linear(const Linear& linear, const at::Tensor& x) {
    constexpr std::int64_t block_weights = 4 << 20;  // dequantised at a time: 8 MB
    const std::int64_t cols = x.size(-1), num_rows = x.numel() / cols;
    const kernels::Weights weights = kernel_weights(linear, cols);
    const std::int64_t block = std::clamp<std::int64_t>(block_weights / cols / 16 * 16, 16, weights.rows);
    const at::Tensor rows = x.reshape({num_rows, cols}), out = at::empty({num_rows, weights.rows}, x.options());
    const at::Tensor scratch = at::empty({block, cols}, x.options().dtype(at::kBFloat16));
    for (std::int64_t first = 0; first < weights.rows; first += block) {
        const std::int64_t count = std::min(block, weights.rows - first);
        constexpr std::int64_t rows_a_piece = 16;
        share_work((count + rows_a_piece - 1) / rows_a_piece, [&](std::int64_t piece) {
            const std::int64_t begin = piece * rows_a_piece, end = std::min(count, begin + rows_a_piece);
            kernels::dequantize(weights, first + begin, first + end, static_cast<std::uint16_t*>(scratch.data_ptr()) + begin * cols);
        });
        out.narrow(1, first, count).copy_(at::linear(rows, scratch.narrow(0, 0, count).to(x.scalar_type())));
    }
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape.back() = weights.rows;
    return linear.bias.defined() ? (out + linear.bias).view(shape) : out.view(shape);
}

}  // namespace mixwright::ops
