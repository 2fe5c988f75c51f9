#include "ops/expert_order.h"

#include <ATen/ATen.h>

#include <numeric>

namespace mixwright::ops {

ExpertOrder order_by_expert(std::span<const std::int64_t> expert_of, std::size_t num_experts) {
    ExpertOrder sorted{std::vector<std::int64_t>(num_experts + 1), std::vector<std::int64_t>(expert_of.size())};
    for (const std::int64_t e : expert_of) ++sorted.begin[static_cast<std::size_t>(e) + 1];
    std::partial_sum(sorted.begin.begin(), sorted.begin.end(), sorted.begin.begin());
    std::vector<std::int64_t> next(sorted.begin.begin(), sorted.begin.end() - 1);
    for (std::size_t i = 0; i < expert_of.size(); ++i) {
        const std::int64_t row = next[static_cast<std::size_t>(expert_of[i])]++;
        sorted.item[static_cast<std::size_t>(row)] = static_cast<std::int64_t>(i);
    }
    return sorted;
}

std::span<const std::int64_t> values_of(const at::Tensor& tensor) {
    return {tensor.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace mixwright::ops
