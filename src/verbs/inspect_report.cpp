#include "verbs/inspect_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "arch/open_tokenizer.h"
#include "arch/render_config.h"
#include "checkpoint/convert.h"
#include "error.h"
#include "io/file.h"
#include "progress.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;
using checkpoint::Format;
using checkpoint::TensorInfo;

constexpr std::size_t most_listed = 8;  // names in one message

// "a, b, c and 12 more"
std::string list_some(const std::vector<std::string>& names) {
    std::string text;
    for (std::size_t i = 0; i < std::min(names.size(), most_listed); ++i) text += (i > 0 ? ", " : "") + printable(names[i]);
    return names.size() > most_listed ? fmt::format("{} and {} more", text, names.size() - most_listed) : text;
}

// Keys of config.json that say nothing about how the model computes.
constexpr std::string_view inert_keys[] = {
    "_name_or_path", "transformers_version", "initializer_range", "attention_dropout", "hidden_dropout", "pretraining_tp", "use_cache",
    "router_aux_loss_coef", "aux_loss_alpha", "seq_aux", "output_router_logits", "router_jitter_noise", "bos_token_id", "eos_token_id",
    "pad_token_id", "torch_dtype", "dtype", "id2label", "label2id", "is_llama_config", "mlp_bias", "attention_bias", "layer_types",
    "max_window_layers", "use_sliding_window", "sliding_window", "rope_interleaved", "scoring_func", "topk_method", "ep_size", "head_dim",
    "rope_scaling", "rope_theta", "rope_parameters", "partial_rotary_factor", "num_experts", "num_local_experts", "qkv_bias", "original_max_position_embeddings",
    "routed_scaling_factor", "pad_token", "unk_token_id", "return_dict", "output_hidden_states", "output_attentions", "architectures", "tie_word_embeddings",
};

void check_config_keys(InspectReport& report) {
    const io::Json& config = report.checkpoint.config;
    if (config.contains("auto_map")) report.problems.push_back({false, "config.json asks for code of its own (auto_map); it is never run"});
    io::Json known;
    try {
        known = arch::render_config(*report.spec);
    } catch (const Error&) {
        return;  // open_model has said why
    }
    std::vector<std::string> unknown;
    for (const auto& [key, value] : config.items())
        if (key != "auto_map" && key != "quantization_config" && !known.contains(key) && std::ranges::find(inert_keys, key) == std::end(inert_keys))
            unknown.push_back(key);
    if (!unknown.empty()) report.problems.push_back({false, "config.json has keys we do not know: " + list_some(unknown)});
}

void open_architecture(InspectReport& report) {
    try {
        arch::OpenModel model = arch::open_model(report.checkpoint);
        report.checkpoint = model.checkpoint;
        report.spec = std::move(model.spec);
        report.tensors = std::move(model.tensors);
        if (!model.unused.empty())
            report.problems.push_back({false, fmt::format("{} tensors the architecture does not know: {}", model.unused.size(), list_some(model.unused))});
    } catch (const Error& e) {
        report.problems.push_back({true, e.what()});
        report.tensors = report.checkpoint.tensors;
        if (report.checkpoint.format == Format::gguf) return;
        try {
            report.spec = arch::parse_config(report.checkpoint.config, (report.checkpoint.path / "config.json").string());
        } catch (const Error&) {
            return;  // said already
        }
    }
    check_config_keys(report);
}

void add_totals(InspectReport& report) {
    std::map<std::string, arch::TensorRole, std::less<>> roles;
    if (report.spec)
        for (const arch::TensorSlot& slot : arch::tensor_slots(*report.spec)) roles.emplace(slot.name, slot.role);
    for (const TensorInfo& info : report.tensors->tensors()) {
        const auto role = roles.find(info.name);
        RoleTotals& totals = report.roles[std::string(role_name(role == roles.end() ? arch::TensorRole::other : role->second))];
        ++totals.tensors;
        totals.parameters += static_cast<std::uint64_t>(info.numel());
        totals.bytes += info.num_bytes();
    }
    if (report.stored.empty())
        for (const TensorInfo& info : report.checkpoint.tensors->tensors()) {
            checkpoint::StoredType& stored = report.stored[std::string(safetensors_name(info.dtype))];
            ++stored.tensors;
            stored.bytes += info.num_bytes();
        }
}

// The template as transformers looks for it: a file of its own, then the tokenizer's config.
std::optional<std::string> find_chat_template(const fs::path& directory) {
    constexpr std::size_t template_limit = 1u << 20, config_limit = 16u << 20;
    if (fs::exists(directory / "chat_template.jinja")) return io::read_file(directory / "chat_template.jinja", template_limit);
    if (!fs::exists(directory / "tokenizer_config.json")) return std::nullopt;
    const io::Json config = io::read_json(directory / "tokenizer_config.json", {.bytes = config_limit});
    const auto it = config.is_object() ? config.find("chat_template") : config.end();
    if (!config.is_object() || it == config.end()) return std::nullopt;
    if (it->is_string()) return it->get<std::string>();
    for (const io::Json& named : it->is_array() ? *it : io::Json::array())
        if (named.is_object() && named.value("name", io::Json()) == "default" && named.contains("template") && named["template"].is_string())
            return named["template"].get<std::string>();
    return std::nullopt;
}

// A model works without a tokenizer, on ids; one that gives ids the embedding has no row for does not.
void check_tokenizer(InspectReport& report) {
    try {
        report.tokenizer = arch::open_tokenizer(report.checkpoint.path.string());
    } catch (const Error& e) {
        report.problems.push_back({false, e.code() == ErrorCode::not_found ? "there is no tokenizer" : fmt::format("the tokenizer cannot be used: {}", e.what())});
        return;
    }
    const std::size_t tokens = report.tokenizer->vocab_size();
    if (report.spec && tokens > static_cast<std::size_t>(report.spec->vocab_size))
        report.problems.push_back({true, fmt::format("the tokenizer has ids up to {}, the embedding {} rows", tokens - 1, report.spec->vocab_size)});
}

// A router that gives two experts the same row cannot tell them apart; a row of zeros never wins on its own account.
void check_router(InspectReport& report, const arch::TensorSlot& slot) {
    const TensorInfo& info = report.tensors->at(slot.name);
    std::vector<float> values(static_cast<std::size_t>(info.numel()));
    checkpoint::to_float(report.tensors->bytes(info).bytes, info.dtype, values);
    const auto width = static_cast<std::ptrdiff_t>(info.shape[1]);
    std::set<std::vector<float>> rows;
    std::int64_t zero_rows = 0;
    for (auto row = values.begin(); row != values.end(); row += width) {
        rows.emplace(row, row + width);
        zero_rows += std::all_of(row, row + width, [](float v) { return v == 0; });
    }
    if (zero_rows > 0) report.problems.push_back({false, fmt::format("{}: {} of {} rows are zero", slot.name, zero_rows, info.shape[0])});
    if (const auto distinct = static_cast<std::int64_t>(rows.size()); distinct < info.shape[0])
        report.problems.push_back({false, fmt::format("{}: only {} of {} rows differ: the router cannot tell these experts apart", slot.name, distinct, info.shape[0])});
}

}  // namespace

std::uint64_t InspectReport::num_parameters() const {
    std::uint64_t count = 0;
    for (const auto& [role, totals] : roles) count += totals.parameters;
    return count;
}

bool InspectReport::usable() const { return std::ranges::none_of(problems, &Problem::fatal); }

std::string_view role_name(arch::TensorRole role) {
    using enum arch::TensorRole;
    switch (role) {
        case embedding: return "embedding";
        case norm: return "norm";
        case attention: return "attention";
        case router:
        case router_bias: return "router";
        case expert: return "expert";
        case shared_expert: return "shared expert";
        case shared_gate: return "shared gate";
        case mlp: return "mlp";
        case lm_head: return "lm_head";
        case other: return "other";
    }
    return "other";
}

std::string_view format_name(Format format) {
    switch (format) {
        case Format::safetensors: return "safetensors";
        case Format::torch_bin: return "torch .bin";
        case Format::gguf: return "GGUF";
    }
    return "";
}

InspectReport inspect_model(const std::string& path) {
    InspectReport report;
    const fs::path resolved = checkpoint::resolve_model(path);
    if (fs::is_directory(resolved) && fs::exists(resolved / "adapter_config.json") && !fs::exists(resolved / "config.json")) {
        report.checkpoint.name = path;
        report.checkpoint.path = resolved;
        report.adapter = io::read_json(resolved / "adapter_config.json");
        if (!report.adapter.is_object()) throw Error(ErrorCode::malformed, fmt::format("{}: not an object", io::shown(resolved / "adapter_config.json")));
        return report;
    }
    report.checkpoint = checkpoint::open_checkpoint(path);
    if (report.checkpoint.format == Format::gguf) {
        const checkpoint::GgufModel gguf = checkpoint::open_gguf(report.checkpoint.path);
        report.stored = gguf.stored;
        if (const auto it = gguf.metadata.find("tokenizer.chat_template"); it != gguf.metadata.end() && it->is_string()) report.chat_template = it->get<std::string>();
    } else {
        report.chat_template = find_chat_template(report.checkpoint.path);
    }
    open_architecture(report);
    add_totals(report);
    check_tokenizer(report);
    return report;
}

void verify_weights(InspectReport& report, bool digests) {
    if (report.tensors == nullptr) return;
    std::uint64_t total = 0;
    for (const TensorInfo& info : report.tensors->tensors()) total += info.num_bytes();
    {
        Progress progress("reading every weight", total, "B");
        for (const TensorInfo& info : report.tensors->tensors()) {
            const auto& scan = report.scans[info.name] =
                checkpoint::scan_tensor(*report.tensors, info, digests, [&](std::uint64_t bytes) { progress.advance(bytes); });
            if (!scan.finite())
                report.problems.push_back({true, fmt::format("{}: {} NaN and {} infinite of {} values", printable(info.name), scan.nans, scan.infinities, scan.values)});
            else if (scan.values > 1 && scan.zeros == scan.values && info.shape.size() > 1 && is_floating(info.dtype))
                report.problems.push_back({false, fmt::format("{}: every value is zero", printable(info.name))});
        }
    }
    if (!report.spec) return;
    for (const arch::TensorSlot& slot : arch::tensor_slots(*report.spec))
        if (const TensorInfo* info = slot.role == arch::TensorRole::router ? report.tensors->find(slot.name) : nullptr; info != nullptr && info->shape == slot.shape)
            check_router(report, slot);
}

}  // namespace mixwright::verbs
