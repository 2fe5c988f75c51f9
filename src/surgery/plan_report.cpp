#include "surgery/plan_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "error.h"
#include "surgery/preflight.h"

namespace mixwright::surgery {
namespace {

constexpr std::uint64_t process_bytes = 220u << 20;  // libtorch, its thread pools and ourselves

std::string bytes_text(std::uint64_t bytes) {
    return bytes >= 1'000'000'000 ? fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9)
           : bytes >= 1'000'000   ? fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6)
                                  : fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
}

// Prompts are a few hundred tokens at most; ridge says how many it reads.
std::uint64_t gate_tokens(const BuildRecipe& recipe) {
    if (!needs_hidden_states(recipe.gate_mode)) return 0;
    const auto num_experts = static_cast<std::uint64_t>(recipe.experts.size());
    if (recipe.gate_mode == GateMode::ridge) return num_experts * static_cast<std::uint64_t>(recipe.ridge.tokens_per_expert);
    std::uint64_t characters = 0;
    for (const auto* list : {&recipe.experts, &recipe.shared_experts})
        for (const ExpertRecipe& expert : *list)
            for (const auto* prompts : {&expert.positive_prompts, &expert.negative_prompts})
                for (const std::string& prompt : *prompts) characters += prompt.size() + 1;
    return characters / 2;
}

std::string gate_passes(const BuildRecipe& recipe) {
    const auto tokens = gate_tokens(recipe);
    switch (recipe.gate_mode) {
        case GateMode::random:
        case GateMode::uniform_random: return "none";
        case GateMode::cheap_embed: return "the embedding only";
        case GateMode::ridge: return fmt::format("one pass of {} tokens through the base, a layer at a time", tokens);
        default: return fmt::format("one pass of about {} tokens through the base, a layer at a time", tokens);
    }
}

}  // namespace

MemoryEstimate estimate_memory(const BuildRecipe& recipe, const SourceModels& sources, const MoePlan& plan) {
    MemoryEstimate estimate{.gates = process_bytes, .writing = process_bytes};
    const arch::ModelSpec& base = sources.base->open.spec;
    std::uint64_t layer = 0, outer = 0, largest_decoded = 0;
    for (const arch::TensorSlot& slot : arch::tensor_slots(base)) {
        std::uint64_t elements = 1;
        for (const std::int64_t dim : slot.shape) elements *= static_cast<std::uint64_t>(dim);
        if (slot.layer == 0) layer += 4 * elements;  // at most f32
        if (slot.layer < 0) outer += 4 * elements;
    }
    for (const auto& tensor : plan.output.tensors)
        if (const auto* pieces = std::get_if<checkpoint::Pieces>(&tensor.content))
            for (const checkpoint::Piece& piece : *pieces) largest_decoded = std::max(largest_decoded, piece.tensor.num_bytes());
    const auto width = static_cast<std::uint64_t>(base.hidden_size);
    const std::uint64_t tokens = gate_tokens(recipe);
    if (tokens > 0) {
        // The stream of all tokens, and the widest intermediate of one batch.
        estimate.gates += layer + outer + 4 * tokens * width + 16 * 8192 * static_cast<std::uint64_t>(base.intermediate_size);
        if (recipe.gate_mode == GateMode::ridge) estimate.gates += 3 * 8 * width * width;
    }
    estimate.writing += (4u << 23) + largest_decoded;
    return estimate;
}

std::string plan_table(const BuildRecipe& recipe, const SourceModels& sources, const MoePlan& plan,
                       const checkpoint::OutputLayout& layout) {
    const arch::ModelSpec& spec = plan.spec;
    std::string table = fmt::format("{} from {} models, {} of {} experts a token, gates {}\n\n", plan.target->name, sources.all.size(),
                                    spec.top_k, spec.num_experts, gate_mode_name(recipe.gate_mode));
    const auto row = [&](std::string_view what, const SourceModel& model) {
        const auto index = static_cast<std::size_t>(
            std::ranges::find(sources.all, &model, [](const auto& m) { return m.get(); }) - sources.all.begin());
        table += fmt::format("  {:<16} {}  ({})\n", what, printable(model.reference.text()), bytes_text(plan.bytes_from[index]));
    };
    row("base", *sources.base);
    for (std::size_t e = 0; e < sources.experts.size(); ++e) row(fmt::format("expert {}", e), *sources.experts[e]);
    for (std::size_t e = 0; e < sources.shared_experts.size(); ++e) row(fmt::format("shared expert {}", e), *sources.shared_experts[e]);
    table += "  (in brackets: bytes of the output that come from the model, in all its roles)\n\n" + agreement_table(sources) + "\n";

    const MemoryEstimate memory = estimate_memory(recipe, sources, plan);
    const auto layers = moe_layers(spec);
    table += fmt::format("  {:<18} {} of {}\n", "MoE layers", layers.size(), spec.num_layers);
    table += fmt::format("  {:<18} {} in all, {} active for a token\n", "parameters", spec.num_parameters(), spec.num_active_parameters());
    table += fmt::format("  {:<18} {}\n", "gate pass", gate_passes(recipe));
    table += fmt::format("  {:<18} {} tensors, {} bytes in {} file{}, {}\n", "weights", plan.output.tensors.size(), layout.tensor_bytes,
                         layout.shards.size(), layout.shards.size() == 1 ? "" : "s", torch_name(*spec.dtype));
    table += fmt::format("  {:<18} {} bytes ({})\n", "disk", layout.bytes, bytes_text(layout.bytes));
    table += fmt::format("  {:<18} about {}\n", "memory", bytes_text(std::max(memory.gates, memory.writing)));
    return table;
}

io::Json plan_json(const BuildRecipe& recipe, const SourceModels& sources, const MoePlan& plan, const checkpoint::OutputLayout& layout) {
    const MemoryEstimate memory = estimate_memory(recipe, sources, plan);
    io::Json models = io::Json::array();
    for (std::size_t i = 0; i < sources.all.size(); ++i)
        models.push_back({{"model", sources.all[i]->reference.text()}, {"bytes", plan.bytes_from[i]}});
    return {{"architecture", plan.target->name},
            {"model_type", plan.target->model_type},
            {"gate_mode", gate_mode_name(recipe.gate_mode)},
            {"bytes", layout.bytes},
            {"tensor_bytes", layout.tensor_bytes},
            {"tensors", plan.output.tensors.size()},
            {"files", layout.shards.size()},
            {"parameters", plan.spec.num_parameters()},
            {"active_parameters", plan.spec.num_active_parameters()},
            {"memory_bytes", std::max(memory.gates, memory.writing)},
            {"models", models}};
}

}  // namespace mixwright::surgery
