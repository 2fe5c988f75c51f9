#include <ATen/ATen.h>

#include <algorithm>

#include "ops/expert_loops.h"
#include "ops/expert_products.h"
#include "ops/panel_linear.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {
namespace {

constexpr std::size_t block_tokens = 512;   // of one expert
constexpr std::size_t batch_tokens = 1024;  // of experts that run together

// Some tokens of one expert.
struct Block {
    const Mlp* expert;
    std::span<const std::int32_t> tokens;
    const float* weights;
    kernels::Panels x, hidden;
};

// Calls work(block, piece) for `pieces` pieces of each block.
template <class Work>
void for_each_piece(std::vector<Block>& blocks, std::int64_t pieces, const Work& work) {
    share_work(pieces * static_cast<std::int64_t>(blocks.size()),
               [&](std::int64_t unit) { work(blocks[static_cast<std::size_t>(unit / pieces)], unit % pieces); });
}

void run_batch(const at::Tensor& x, std::vector<Block>& blocks, float* y) {
    const std::int64_t D = x.size(1), width = kernels::Panels::width();
    std::int64_t panels = 0, widest = 0;  // experts may differ in width
    for (const Block& block : blocks) {
        panels = std::max(panels, block.x.count());
        widest = std::max(widest, block.hidden.cols());
    }
    for_each_piece(blocks, panels, [&](Block& block, std::int64_t p) {
        if (p < block.x.count()) fill_panel(block.x, p, x, block.tokens);
    });

    // The gate's result goes where the hidden activations will be.
    const std::int64_t hidden_tile = kernels::tile_rows(widest, D);
    for_each_piece(blocks, (widest + hidden_tile - 1) / hidden_tile, [&](Block& block, std::int64_t piece) {
        const std::int64_t F = block.hidden.cols(), begin = piece * hidden_tile, end = std::min(F, begin + hidden_tile), step = hidden_tile * width;
        if (begin >= end) return;
        float* gate = block.hidden.panel(0) + begin * width;
        float* up = panel_scratch(block.x.count() * step);
        kernels::multiply(kernel_weights(block.expert->gate, D), begin, end, block.x, gate, F * width);
        kernels::multiply(kernel_weights(block.expert->up, D), begin, end, block.x, up, step);
        for (std::int64_t p = 0; p < block.x.count(); ++p) silu_mul(gate + p * F * width, up + p * step, (end - begin) * width, gate + p * F * width);
    });

    // Experts share tokens, so a thread takes some columns of the output through all blocks.
    const std::int64_t out_tile = kernels::tile_rows(D, widest);
    share_work((D + out_tile - 1) / out_tile, [&](std::int64_t piece) {
        const std::int64_t begin = piece * out_tile, end = std::min(D, begin + out_tile), step = out_tile * width;
        for (const Block& block : blocks) {
            float* out = panel_scratch(block.hidden.count() * step);
            kernels::multiply(kernel_weights(block.expert->down, block.hidden.cols()), begin, end, block.hidden, out, step);
            for (std::size_t t = 0; t < block.tokens.size(); ++t) {
                const auto panel = static_cast<std::int64_t>(t) / width, column = static_cast<std::int64_t>(t) % width;
                add_weighted_column(out + panel * step + column, width, block.weights[t], end - begin, y + block.tokens[t] * D + begin);
            }
        }
    });
}

}  // namespace

void ExpertProducts::run_panels(std::span<const std::size_t> chosen) const {
    const std::int64_t D = x.size(1);
    std::vector<Block> batch;
    std::size_t tokens_in_batch = 0;
    const auto flush = [&] {
        if (!batch.empty()) run_batch(x, batch, y);
        batch.clear();
        tokens_in_batch = 0;
    };
    for (const std::size_t e : chosen) {
        const auto count = static_cast<std::size_t>(assignments.count(e));
        for (std::size_t first = 0; first < count; first += block_tokens) {
            const std::size_t slot = static_cast<std::size_t>(assignments.begin[e]) + first, size = std::min(block_tokens, count - first);
            if (tokens_in_batch + size > batch_tokens) flush();
            const auto rows = static_cast<std::int64_t>(size);
            batch.push_back({&experts[e], {&assignments.token[slot], size}, &assignments.weight[slot], kernels::Panels(rows, D), kernels::Panels(rows, experts[e].gate.weight.size(0))});
            tokens_in_batch += size;
        }
    }
    flush();
}

}  // namespace mixwright::ops
