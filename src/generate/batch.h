// Several sequences generated together: a step reads the weights once for all of them, whatever their lengths. When one ends,
// the next prompt takes its place.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "generate/engine.h"

namespace mixwright::generate {

/// Generates after each of `prompts` (at least one id each), at most `parallel` at a time. Prompt i is sampled with the seed
/// options.sampling.seed + i. `on_token` sees every new id as it comes and returns whether that sequence goes on. Times of the
/// results are those of all sequences together. Greedy results are those of generate() for each alone, to the rounding of
/// sums. Error(failed) when a prompt does not fit the context.
std::vector<GenerateResult> generate_together(const model::Model& model, std::span<const std::vector<std::int64_t>> prompts, const GenerateOptions& options,
                                              std::int64_t parallel, const std::function<bool(std::size_t prompt, std::int64_t id)>& on_token = {});

}  // namespace mixwright::generate
