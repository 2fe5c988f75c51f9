#include "arch/zipped.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <numeric>

#include "error.h"

namespace mixwright::arch {
namespace {

constexpr std::string_view prefix = "zipped_";
constexpr const char* config_key = "zipped_experts";

bool can_be_zipped(const Architecture& row) {
    return row.moe && row.mlp == MlpForm::gated && !row.moe->chained && !row.moe->expert_bias;
}

// Tables of strings that live as long as the process, made from the registry's.
class ZippedTables {
public:
    ZippedTables() {
        for (const Architecture* row : registry()) {
            if (!can_be_zipped(*row)) continue;
            Architecture zipped = *row;
            zipped.model_type = names_.emplace_back(fmt::format("{}{}", prefix, row->model_type));
            zipped.hf_class = names_.emplace_back(fmt::format("Zipped{}", row->hf_class));
            zipped.gguf_name = {};
            zipped.moe->zipped = true;
            std::erase_if(zipped.packed, [](const PackedForm& form) { return form.per_expert; });
            tables_.push_back(std::move(zipped));
        }
    }
    const Architecture* find(std::string_view model_type) const {
        const auto table = std::ranges::find(tables_, model_type, &Architecture::model_type);
        return table == tables_.end() ? nullptr : &*table;
    }

private:
    std::deque<std::string> names_;
    std::deque<Architecture> tables_;
};

// One layer's entry, already known to be an object.
class LayerEntry {
public:
    LayerEntry(const ConfigReader& config, const ModelSpec& spec, std::size_t layer, const io::Json& entry) : config_(config), spec_(spec), layer_(layer), entry_(entry) {}

    ZippedExperts read() const {
        ZippedExperts zipped;
        for (const io::Json& rows : list("rows")) zipped.rows.push_back(number(rows, "rows", 1, max_rows));
        const auto num_groups = static_cast<std::int64_t>(zipped.rows.size());
        for (const io::Json& window : list("experts")) {
            if (!window.is_array() || window.size() != 3) fail("experts", "expected [group, first row, width] for each expert");
            ExpertWindow w{number(window[0], "group", 0, num_groups - 1), number(window[1], "first row", 0, max_rows), number(window[2], "width", 1, spec_.expert_width)};
            const std::int64_t rows = zipped.rows[static_cast<std::size_t>(w.group)];
            if (w.first + w.width > rows)
                fail("experts", fmt::format("expert {} reads rows {} to {} of group {}, which has {}", zipped.windows.size(), w.first, w.first + w.width, w.group, rows));
            zipped.windows.push_back(w);
        }
        if (static_cast<std::int64_t>(zipped.windows.size()) != spec_.num_experts)
            fail("experts", fmt::format("expected {} windows, got {}", spec_.num_experts, zipped.windows.size()));
        for (std::int64_t g = 0; g < num_groups; ++g)
            if (std::ranges::find(zipped.windows, g, &ExpertWindow::group) == zipped.windows.end()) fail("rows", fmt::format("no expert is in group {}", g));
        return zipped;
    }

private:
    static constexpr std::int64_t max_rows = 1 << 20;

    [[noreturn]] void fail(const char* part, const std::string& problem) const { config_.fail(config_key, fmt::format("layer {}: {}: {}", layer_, part, problem)); }

    const io::Json& list(const char* part) const {
        const auto it = entry_.find(part);
        if (it == entry_.end() || !it->is_array() || it->empty() || it->size() > static_cast<std::size_t>(spec_.num_experts))
            fail(part, fmt::format("expected a list of at most {} entries", spec_.num_experts));
        return *it;
    }

    std::int64_t number(const io::Json& value, const char* part, std::int64_t least, std::int64_t most) const {
        if (!value.is_number_integer()) fail(part, fmt::format("expected a whole number, got {}", printable(value.dump(), 60)));
        const bool huge = value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX;
        const std::int64_t n = huge ? INT64_MAX : value.get<std::int64_t>();
        if (n < least || n > most) fail(part, fmt::format("out of range (got {}, allowed {} to {})", printable(value.dump(), 60), least, most));
        return n;
    }

    const ConfigReader& config_;
    const ModelSpec& spec_;
    std::size_t layer_;
    const io::Json& entry_;
};

}  // namespace

std::int64_t ZippedExperts::size() const {
    std::int64_t size = 2 * std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
    for (const ExpertWindow& window : windows) size += window.width;
    return size;
}

double ZippedExperts::mean_width() const {
    std::int64_t sum = 0;
    for (const ExpertWindow& window : windows) sum += window.width;
    return static_cast<double>(sum) / static_cast<double>(windows.size());
}

const Architecture* zipped_form(std::string_view model_type) {
    if (!model_type.starts_with(prefix)) return nullptr;
    static const ZippedTables tables;
    return tables.find(model_type);
}

const Architecture& zipped_form_of(const Architecture& architecture) {
    if (const Architecture* zipped = zipped_form(fmt::format("{}{}", prefix, architecture.model_type))) return *zipped;
    throw Error(ErrorCode::unsupported, fmt::format("{} has no experts that could share rows", architecture.model_type), "zip --format standard keeps the architecture");
}

const Architecture& unzipped_form_of(const Architecture& architecture) {
    if (!architecture.moe || !architecture.moe->zipped) return architecture;
    return find_architecture(architecture.model_type.substr(prefix.size()));
}

void parse_zipped(const ConfigReader& config, ModelSpec& spec) {
    const io::Json* layers = config.find(config_key);
    if (layers == nullptr || !layers->is_array() || layers->size() != spec.layers.size())
        config.fail(config_key, fmt::format("expected a list with an entry for each of the {} layers", spec.layers.size()));
    for (std::size_t layer = 0; layer < spec.layers.size(); ++layer) {
        const io::Json& entry = (*layers)[layer];
        const bool moe = spec.layers[layer].kind == LayerKind::moe;
        if (moe ? !entry.is_object() : !entry.is_null())
            config.fail(config_key, fmt::format("layer {}: expected {}", layer, moe ? "an object: the layer has experts" : "null: the layer has no experts"));
        if (moe) spec.layers[layer].zipped = LayerEntry(config, spec, layer, entry).read();
    }
}

io::Json zipped_json(const ZippedExperts& zipped) {
    io::Json json{{"rows", zipped.rows}, {"experts", io::Json::array()}};
    for (const ExpertWindow& w : zipped.windows) json["experts"].push_back({w.group, w.first, w.width});
    return json;
}

ZippedExperts zipped_from_json(const io::Json& json) {
    ZippedExperts zipped{.rows = json.at("rows").get<std::vector<std::int64_t>>()};
    for (const io::Json& w : json.at("experts")) zipped.windows.push_back({w.at(0), w.at(1), w.at(2)});
    return zipped;
}

std::int64_t widest_expert(const ModelSpec& spec) {
    std::int64_t widest = 0;
    for (const LayerSpec& layer : spec.layers)
        if (layer.zipped)
            for (const ExpertWindow& window : layer.zipped->windows) widest = std::max(widest, window.width);
    return widest > 0 ? widest : spec.expert_width;
}

ModelSpec unzipped(const ModelSpec& spec, std::int64_t width) {
    ModelSpec plain = spec;
    plain.architecture = &unzipped_form_of(*spec.architecture);
    plain.expert_width = width;
    for (LayerSpec& layer : plain.layers) layer.zipped.reset();
    return plain;
}

std::int64_t ModelSpec::width_of(std::int64_t layer, std::int64_t expert) const {
    const auto& zipped = layers[static_cast<std::size_t>(layer)].zipped;
    return zipped ? zipped->windows[static_cast<std::size_t>(expert)].width : expert_width;
}

}  // namespace mixwright::arch
