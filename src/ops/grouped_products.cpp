#include "ops/grouped_products.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <functional>

#include "ops/expert_order.h"
#include "ops/gemm.h"
#include "ops/parallel.h"
#include "ops/product.h"

namespace mixwright::ops {
namespace {

// work(expert, first row, rows) for every expert, those without rows included. On the CPU each thread takes whole experts
// when there are enough of them: a product of a hundred rows is too small to be worth sharing.
void for_each_expert(const Assignment& a, at::Device device, const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& work) {
    const auto num_experts = static_cast<std::int64_t>(a.begin.size()) - 1;
    const std::int64_t threads = at::get_num_threads(), rows = a.begin.back();
    const auto run = [&](std::int64_t e) {
        const std::int64_t begin = a.begin[static_cast<std::size_t>(e)];
        work(e, begin, a.begin[static_cast<std::size_t>(e) + 1] - begin);
    };
    if (!device.is_cpu() || threads == 1 || num_experts < 2 * threads) {
        for (std::int64_t e = 0; e < num_experts; ++e) run(e);
        return;
    }
    // Thread t takes the experts whose middle row lies in its share of the rows.
    const auto thread_of = [&](std::int64_t e) {
        const std::int64_t middle = (a.begin[static_cast<std::size_t>(e)] + a.begin[static_cast<std::size_t>(e) + 1]) / 2;
        return rows == 0 ? 0 : std::min(middle * threads / rows, threads - 1);
    };
    parallel_for(0, threads, 1, [&](std::int64_t first, std::int64_t last) {
        const at::NoGradGuard guard;
        for (std::int64_t e = 0; e < num_experts; ++e)
            if (const std::int64_t t = thread_of(e); t >= first && t < last) run(e);
    });
}

// The rows of an expert as they lie, for our own products.
kernels::Factor rows_of(const Assignment& a, const Rows& rows, std::int64_t begin, bool transposed) {
    kernels::Factor factor = factor_of(rows.by_token ? rows.values : rows.values.narrow(0, begin, rows.values.size(0) - begin));
    factor.transposed = transposed;
    if (rows.by_token) factor.row_of = a.token.const_data_ptr<std::int32_t>() + begin;
    return factor;
}

// values [M, d] -> [E, busiest, d], zeros behind the rows of each expert.
at::Tensor padded(const Assignment& a, const at::Tensor& values) {
    const std::int64_t num_experts = std::ssize(a.begin) - 1, most = a.busiest(), d = values.size(1);
    return at::zeros({num_experts * most, d}, values.options()).index_copy_(0, a.slot, values).view({num_experts, most, d});
}

}  // namespace

std::int64_t Assignment::busiest() const {
    std::int64_t most = 0;
    for (std::size_t e = 0; e + 1 < begin.size(); ++e) most = std::max(most, begin[e + 1] - begin[e]);
    return most;
}

void batch_products(Assignment& a) {
    const std::int64_t most = a.busiest();
    std::vector<std::int64_t> slot(static_cast<std::size_t>(a.begin.back()));
    for (std::size_t e = 0; e + 1 < a.begin.size(); ++e)
        for (std::int64_t row = a.begin[e]; row < a.begin[e + 1]; ++row) slot[static_cast<std::size_t>(row)] = static_cast<std::int64_t>(e) * most + row - a.begin[e];
    a.slot = at::tensor(slot, at::kLong).to(a.order.device());
}

Assignment sort_by_expert(const at::Tensor& chosen_NK, std::int64_t num_experts) {
    const at::Tensor chosen = chosen_NK.to(at::kCPU).contiguous();
    const std::int64_t top_k = chosen.size(1);
    auto [begin, item] = order_by_expert(values_of(chosen), static_cast<std::size_t>(num_experts));
    Assignment a{.begin = std::move(begin), .order = at::tensor(item, at::kLong), .token = at::empty({chosen.numel()}, at::kInt), .position = at::empty_like(chosen)};
    auto* token = a.token.mutable_data_ptr<std::int32_t>();
    auto* position = a.position.mutable_data_ptr<std::int64_t>();
    for (std::size_t row = 0; row < item.size(); ++row) {
        token[row] = static_cast<std::int32_t>(item[row] / top_k);
        position[item[row]] = static_cast<std::int64_t>(row);
    }
    for (at::Tensor* tensor : {&a.order, &a.token, &a.position}) *tensor = tensor->to(chosen_NK.device());
    constexpr std::int64_t padding_worth_it = 8;
    if (!a.order.is_cpu() && a.busiest() * num_experts <= padding_worth_it * a.begin.back()) batch_products(a);
    return a;
}

Rows rows_of_tokens(const Assignment& a, const at::Tensor& x) {
    if (gemm_applies(x)) return {x.contiguous(), /*by_token=*/true};
    return {x.index_select(0, a.token)};
}

at::Tensor rows_by_expert(const Assignment& a, const Rows& rows, const at::Tensor& matrices) {
    const std::int64_t num_experts = matrices.size(0), k = matrices.size(1), n = matrices.size(2);
    if (a.slot.defined()) return at::bmm(padded(a, rows.values), matrices).view({-1, n}).index_select(0, a.slot);
    const at::Tensor out = at::empty({a.begin.back(), n}, rows.values.options());
    if (gemm_applies(out)) {
        std::vector<GemmCall> calls;
        for (std::int64_t e = 0; e < num_experts; ++e) {
            const std::int64_t begin = a.begin[static_cast<std::size_t>(e)], count = a.begin[static_cast<std::size_t>(e) + 1] - begin;
            calls.push_back({rows_of(a, rows, begin, false), factor_of(matrices.select(0, e)), count, k, n, product_of(out.narrow(0, begin, count))});
        }
        run_gemms(calls);
        return out;
    }
    for_each_expert(a, out.device(), [&](std::int64_t e, std::int64_t begin, std::int64_t count) {
        if (count == 0) return;
        at::Tensor block = out.narrow(0, begin, count);
        matrix_product_out(block, rows.values.narrow(0, begin, count), matrices.select(0, e));
    });
    return out;
}

at::Tensor outer_by_expert(const Assignment& a, const Rows& left, const Rows& right) {
    const std::int64_t num_experts = static_cast<std::int64_t>(a.begin.size()) - 1, m = left.values.size(1), n = right.values.size(1);
    if (a.slot.defined()) return at::bmm(padded(a, left.values).transpose(1, 2), padded(a, right.values));
    const at::Tensor out = at::empty({num_experts, m, n}, left.values.options());
    if (gemm_applies(out)) {
        std::vector<GemmCall> calls;
        for (std::int64_t e = 0; e < num_experts; ++e) {
            const std::int64_t begin = a.begin[static_cast<std::size_t>(e)], count = a.begin[static_cast<std::size_t>(e) + 1] - begin;
            calls.push_back({rows_of(a, left, begin, true), rows_of(a, right, begin, false), m, count, n, product_of(out.select(0, e))});
        }
        run_gemms(calls);
        return out;
    }
    for_each_expert(a, out.device(), [&](std::int64_t e, std::int64_t begin, std::int64_t count) {
        at::Tensor block = out.select(0, e);
        if (count == 0)
            block.zero_();
        else
            matrix_product_out(block, left.values.narrow(0, begin, count).t(), right.values.narrow(0, begin, count));
    });
    return out;
}

}  // namespace mixwright::ops
