#include "ops/panel_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#include "ops/kernel_use.h"
#include "ops/panel_product.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {
namespace {

struct Product {
    kernels::Weights weights;
    const void* bias;
    at::Tensor out;  // [N, out]
};

// Outputs of one product that are made of a unit at a time.
struct Tile {
    const Product* product;
    std::int64_t begin, end;
};

template <class T>
void run_tile(const Tile& tile, const kernels::Panels& panels, std::int64_t first) {
    const std::int64_t stride = tile.product->weights.rows;
    float* const sums = panel_scratch((panels.count() + 1) * panels.width() * (tile.end - tile.begin));
    multiply_rows(tile.product->weights, tile.begin, tile.end, panels, static_cast<const T*>(tile.product->bias), sums, static_cast<T*>(tile.product->out.data_ptr()) + first * stride, stride);
}

}  // namespace

bool panels_apply(std::span<const Linear* const> linears, const at::Tensor& x) {
    return kernels_apply(x) && x.numel() > 0 && has_faster_panels(x.scalar_type()) && std::ranges::all_of(linears, [&](const Linear* linear) {
        return has_kernel_weights(*linear, x) && !linear->lora_a.defined() &&
               (!linear->bias.defined() || (linear->bias.scalar_type() == x.scalar_type() && linear->bias.is_contiguous()));
    });
}

std::vector<at::Tensor> panel_linears(std::span<const Linear* const> linears, const at::Tensor& x) {
    const std::int64_t cols = x.size(-1), num_rows = x.numel() / cols;
    const at::Tensor rows = x.contiguous().view({num_rows, cols});
    std::vector<Product> products;
    for (const Linear* linear : linears) {
        const kernels::Weights weights = kernel_weights(*linear, cols);
        products.push_back({weights, linear->bias.defined() ? linear->bias.const_data_ptr() : nullptr, at::empty({num_rows, weights.rows}, x.options())});
    }
    std::vector<Tile> tiles;
    for (const Product& product : products) {
        const std::int64_t outputs = product.weights.rows, size = kernels::tile_rows(outputs, cols);
        for (std::int64_t begin = 0; begin < outputs; begin += size) tiles.push_back({&product, begin, std::min(outputs, begin + size)});
    }

    // Threads take units of tokens through all tiles, one as many as another; where there are few tokens, through a share of the tiles.
    constexpr std::int64_t least_panels = 4, pieces_a_thread = 4;
    const std::int64_t num_tiles = std::ssize(tiles), threads = at::get_num_threads();
    RowUnits units = row_units(x, cols, num_rows, num_rows, least_panels);
    if (units.count > threads) units.count = (units.count + threads - 1) / threads * threads;
    const std::int64_t shares = std::min(num_tiles, (pieces_a_thread * threads + units.count - 1) / units.count);
    std::vector<std::int32_t> order(static_cast<std::size_t>(num_rows));
    std::iota(order.begin(), order.end(), 0);
    share_work(units.count * shares, [&](std::int64_t piece) {
        const std::int64_t unit = piece / shares, share = piece % shares, first = units.begin(unit), count = units.size(unit);
        const kernels::Panels panels = filled_panels(rows, std::span(order).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
        for (std::int64_t i = share * num_tiles / shares; i < (share + 1) * num_tiles / shares; ++i) {
            const Tile& tile = tiles[static_cast<std::size_t>(i)];
            x.scalar_type() == at::kBFloat16 ? run_tile<std::uint16_t>(tile, panels, first) : run_tile<float>(tile, panels, first);
        }
    });

    std::vector<at::Tensor> results;
    std::vector<std::int64_t> shape = x.sizes().vec();
    for (const Product& product : products) {
        shape.back() = product.weights.rows;
        results.push_back(product.out.view(shape));
    }
    return results;
}

}  // namespace mixwright::ops
