#include "arch/layer_pattern.h"

#include <fmt/format.h>

#include <algorithm>

namespace mixwright::arch {
namespace {

constexpr std::int64_t max_layers = 1024, max_length = std::int64_t{1} << 40, max_iterations = 64;

bool contains(const std::vector<std::int64_t>& list, std::int64_t value) { return std::ranges::find(list, value) != list.end(); }

bool layer_is_moe(const MoeTable& moe, const ConfigReader& config, std::int64_t layer) {
    if (moe.sparse_step) {
        const auto step = config.integer("decoder_sparse_step", 1, max_layers).value_or(1);
        return !contains(config.integers("mlp_only_layers", 0, max_layers), layer) && (layer + 1) % step == 0;
    }
    if (moe.first_k_dense) {
        const auto first = config.integer("first_k_dense_replace", 0, max_layers).value_or(0);
        const auto frequency = config.integer("moe_layer_freq", 1, max_layers).value_or(1);
        return layer >= first && layer % frequency == 0;
    }
    if (moe.interleaved) {
        if (config.has("moe_layers")) return contains(config.integers("moe_layers", 0, max_layers), layer);
        return (layer + 1) % config.integer("interleave_moe_layer_step", 1, max_layers).value_or(1) == 0;
    }
    return true;
}

bool layer_rotates(const Architecture& architecture, const ConfigReader& config, std::int64_t layer, std::int64_t num_layers) {
    if (architecture.no_rope_interval == 0) return true;
    // The list says 1 where a layer rotates, whatever its name suggests.
    const auto rotates = config.integers("no_rope_layers", 0, 1);
    if (!rotates.empty() && static_cast<std::int64_t>(rotates.size()) < num_layers)
        config.fail("no_rope_layers", fmt::format("expected {} entries, got {}", num_layers, rotates.size()));
    if (!rotates.empty()) return rotates[static_cast<std::size_t>(layer)] == 1;
    return (layer + 1) % config.integer("no_rope_layer_interval", 1, max_layers).value_or(architecture.no_rope_interval) != 0;
}

// The type the config gives a layer ("sliding_attention"), or null when it gives none.
const io::Json* layer_type(const ConfigReader& config, std::int64_t layer, std::int64_t num_layers) {
    const io::Json* types = config.find("layer_types");
    if (types == nullptr) return nullptr;
    if (!types->is_array() || static_cast<std::int64_t>(types->size()) != num_layers)
        config.fail("layer_types", fmt::format("expected a list of {} names", num_layers));
    return &(*types)[static_cast<std::size_t>(layer)];
}

bool layer_slides(const Architecture& architecture, const ConfigReader& config, const LayerSpec& spec, std::int64_t layer, std::int64_t num_layers) {
    const SlidingWindow rule = architecture.sliding_window;
    if (rule == SlidingWindow::always || rule == SlidingWindow::switched) return true;
    if (const io::Json* type = layer_type(config, layer, num_layers)) return *type == "sliding_attention";
    if (rule == SlidingWindow::pattern) {
        const auto pattern = config.integer("sliding_window_pattern", 1, max_layers).value_or(architecture.window_pattern);
        return (layer + 1) % pattern != 0;
    }
    if (rule == SlidingWindow::switched_no_rope_layers) return !spec.rope;
    const std::int64_t boundary = config.integer("max_window_layers", 0, max_layers).value_or(28);
    return rule == SlidingWindow::switched_from_layer ? layer >= boundary : layer % 2 == 0 && layer < boundary;
}

void parse_window(const Architecture& architecture, const ConfigReader& config, LayerSpec& spec, std::int64_t layer, std::int64_t num_layers) {
    const SlidingWindow rule = architecture.sliding_window;
    if (rule == SlidingWindow::none) return;
    if (rule == SlidingWindow::chunks) {
        const io::Json* type = layer_type(config, layer, num_layers);
        const bool chunked = type != nullptr ? *type == "chunked_attention" : spec.rope;
        if (chunked) spec.attention_chunk = config.integer("attention_chunk_size", 0, max_length).value_or(0);
        return;
    }
    const bool switched = rule != SlidingWindow::always && rule != SlidingWindow::pattern;
    if (switched && !config.boolean("use_sliding_window").value_or(false)) return;
    const std::int64_t by_default = config.says("sliding_window") ? 0 : architecture.default_window;
    const std::int64_t window = config.integer("sliding_window", 0, max_length).value_or(by_default);
    if (window > 0 && layer_slides(architecture, config, spec, layer, num_layers)) spec.sliding_window = window;
}

}  // namespace

Chain parse_chain(const ConfigReader& config, std::int64_t layer, std::int64_t num_layers) {
    Chain chain;
    // One number for all layers, or a list with one a layer.
    if (const auto each = config.integers("inner_iter", 1, max_iterations); each.size() == 1)
        chain.iterations = each.front();
    else if (std::ssize(each) == num_layers)
        chain.iterations = each[static_cast<std::size_t>(layer)];
    else if (!each.empty())
        config.fail("inner_iter", "expected a number, or a list with one for each layer");
    if (const auto form = config.text("chain_form")) {
        chain.on_stream = *form == "stream";
        if (*form != "stream" && *form != "normed") config.fail("chain_form", "expected normed (the reference's) or stream");
    }
    chain.scale = config.number("chain_scale", 1e-6, 1e6).value_or(1);
    chain.independent_gates = config.boolean("use_igate").value_or(true);
    if (const auto residual = config.text("residual")) {
        chain.inner_residual = *residual == "inner";
        chain.initial_residual = *residual == "addinit";
        chain.outer_residual = *residual == "outer";
        if (!chain.inner_residual && !chain.initial_residual && !chain.outer_residual && *residual != "none")
            config.fail("residual", "expected inner, outer, addinit or none");
    }
    chain.inner_residual = config.boolean("inner_residual").value_or(chain.inner_residual);
    chain.initial_residual = config.boolean("initial_residual").value_or(chain.initial_residual);
    chain.outer_residual = config.boolean("outer_residual").value_or(chain.outer_residual);
    return chain;
}

std::vector<LayerSpec> parse_layers(const ConfigReader& config, const Architecture& architecture, std::int64_t num_layers) {
    std::vector<LayerSpec> layers(static_cast<std::size_t>(num_layers));
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
        LayerSpec& spec = layers[static_cast<std::size_t>(layer)];
        const bool moe = architecture.moe && layer_is_moe(*architecture.moe, config, layer);
        spec.kind = moe ? LayerKind::moe : LayerKind::dense;
        spec.rope = layer_rotates(architecture, config, layer, num_layers);
        parse_window(architecture, config, spec, layer, num_layers);
        spec.local_rope = architecture.local_rope && spec.sliding_window > 0;
        if (moe && architecture.moe->chained) spec.chain = parse_chain(config, layer, num_layers);
    }
    return layers;
}

}  // namespace mixwright::arch
