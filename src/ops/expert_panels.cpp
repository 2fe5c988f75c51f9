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

// Rows of the output are met in no order that a core could foresee, so each is asked for while those before it are added to.
constexpr std::int64_t tokens_ahead = 4;

void fetch(const float* row, std::int64_t count) {
    constexpr std::int64_t line = 16;
    for (std::int64_t i = 0; i < count; i += line) __builtin_prefetch(row + i, 1);
}

// Calls work(block, piece) for `pieces` pieces of each block.
template <class Work>
void for_each_piece(std::vector<Block>& blocks, std::int64_t pieces, const Work& work) {
    share_work(pieces * static_cast<std::int64_t>(blocks.size()),
               [&](std::int64_t unit) { work(blocks[static_cast<std::size_t>(unit / pieces)], unit % pieces); });
}

void run_batch(const at::Tensor& x, std::vector<Block>& blocks, float* y) {
    const std::int64_t D = x.size(1), width = blocks.front().x.width();
    std::int64_t panels = 0, widest = 0;  // experts may differ in width
    for (const Block& block : blocks) {
        panels = std::max(panels, block.x.count());
        widest = std::max(widest, block.hidden.cols());
    }
    for_each_piece(blocks, panels, [&](Block& block, std::int64_t p) {
        if (p < block.x.count()) fill_panel(block.x, p, x, block.tokens);
    });

    const std::int64_t hidden_tile = kernels::tile_rows(widest, D);
    for_each_piece(blocks, (widest + hidden_tile - 1) / hidden_tile, [&](Block& block, std::int64_t piece) {
        const std::int64_t begin = piece * hidden_tile, end = std::min(block.hidden.cols(), begin + hidden_tile), step = hidden_tile * width;
        if (begin >= end) return;
        float* gate = panel_scratch(2 * block.x.count() * step);
        float* up = gate + block.x.count() * step;
        kernels::multiply(kernel_weights(block.expert->gate, D), begin, end, block.x, gate, step);
        kernels::multiply(kernel_weights(block.expert->up, D), begin, end, block.x, up, step);
        for (std::int64_t p = 0; p < block.x.count(); ++p, gate += step, up += step) {
            silu_mul(gate, up, (end - begin) * width, gate);
            block.hidden.put(p, begin, end - begin, gate);
        }
    });

    // Experts share tokens, so a thread takes some columns of the output through all blocks.
    const std::int64_t out_tile = kernels::tile_rows(D, widest);
    share_work((D + out_tile - 1) / out_tile, [&](std::int64_t piece) {
        const std::int64_t begin = piece * out_tile, count = std::min(D, begin + out_tile) - begin, step = out_tile * width;
        for (const Block& block : blocks) {
            float* sums = panel_scratch((block.hidden.count() + 1) * step);
            float* turned = sums + block.hidden.count() * step;
            kernels::multiply(kernel_weights(block.expert->down, block.hidden.cols()), begin, begin + count, block.hidden, sums, step);
            const auto num_tokens = static_cast<std::int64_t>(block.tokens.size());
            for (std::int64_t first = 0; first < num_tokens; first += width, sums += step) {
                const std::int64_t tokens = std::min(width, num_tokens - first);
                kernels::turn(sums, width, count, tokens, turned, count);
                const auto sum_of = [&](std::int64_t t) { return y + block.tokens[static_cast<std::size_t>(first + t)] * D + begin; };
                for (std::int64_t t = 0; t < tokens; ++t) {
                    if (t + tokens_ahead < tokens) fetch(sum_of(t + tokens_ahead), count);
                    add_weighted(turned + t * count, block.weights[first + t], count, sum_of(t));
                }
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
            batch.push_back({&experts[e], {&assignments.token[slot], size}, &assignments.weight[slot], panels_for(x, rows, D), panels_for(x, rows, experts[e].gate.weight.size(0))});
            tokens_in_batch += size;
        }
    }
    flush();
}

}  // namespace mixwright::ops
