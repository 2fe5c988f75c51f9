#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "merge/neuron_selection.h"
#include "progress.h"
#include "surgery/zip_candidates.h"
#include "surgery/zip_clusters.h"
#include "surgery/zip_typed.h"

namespace mixwright::surgery {

MadeBlock typed_uniform_block(const ZipContext& context) {
    MadeBlock made{.weights = context.weights};
    const std::int64_t width = context.result.expert_width, own_width = context.spec.expert_width;
    std::int64_t taken = 0;
    for (const auto& group : paired_experts(context)) {
        for (std::size_t i = 0; i < group.size(); ++i) {
            const ops::Mlp& own = context.weights.experts[static_cast<std::size_t>(group[i])];
            const ops::Mlp* partner = group.size() > 1 && 2 * own_width <= widest_pair ? &context.weights.experts[static_cast<std::size_t>(group[1 - i])] : nullptr;
            const Candidates all = candidates(context, group[i], partner);
            const merge::NormalEquations fit = all.fit(), held_out = all.held_out();
            const std::vector<std::int64_t> own_neurons = range(0, own_width);
            merge::RefitNeurons best = merge::select_and_refit(fit.of(own_neurons), held_out.of(own_neurons), all.down.narrow(1, 0, own_width), width);
            if (partner != nullptr && all.num_fit >= own_width) {
                merge::RefitNeurons mixed = merge::select_and_refit(fit, held_out, all.down, width, merge::Greedy::forward);
                if (mixed.held_out_error < best.held_out_error) best = std::move(mixed);
            }
            taken += std::ranges::count_if(best.kept, [&](std::int64_t k) { return k >= own_width; });
            ops::Mlp& result = made.weights.experts[static_cast<std::size_t>(group[i])];
            const auto rows = [&](const at::Tensor& mine, const at::Tensor& theirs) { return (theirs.defined() ? at::cat({mine, theirs}) : mine).index_select(0, index_of(best.kept)); };
            result.gate.weight = rows(own.gate.weight, partner != nullptr ? partner->gate.weight : at::Tensor());
            result.up.weight = rows(own.up.weight, partner != nullptr ? partner->up.weight : at::Tensor());
            result.down.weight = best.down.to(at::kFloat).contiguous();
            check_interrupted();
        }
    }
    made.note = fmt::format("{} of {} neurons an expert, {:.1f} % of them its partner's", width, own_width,
                            100 * static_cast<double>(taken) / static_cast<double>(width * context.spec.num_experts));
    return made;
}

}  // namespace mixwright::surgery
