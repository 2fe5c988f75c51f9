// `inspect PATH`: what a model is and what is wrong with it, as a table or as JSON.
#include <fmt/format.h>

#include <algorithm>

#include "arch/zipped.h"
#include "error.h"
#include "verbs/inspect_report.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

using io::Json;

// The roles in the order of the model, not of the alphabet.
constexpr std::string_view role_order[] = {"embedding", "attention", "mlp", "router", "expert", "shared expert", "shared gate", "norm", "lm_head", "other"};

std::string count_text(std::uint64_t count) {
    const auto value = static_cast<double>(count);
    if (value >= 1e9) return fmt::format("{:.2f} B", value / 1e9);
    if (value >= 1e6) return fmt::format("{:.1f} M", value / 1e6);
    if (value >= 1e3) return fmt::format("{:.1f} k", value / 1e3);
    return fmt::format("{}", count);
}

std::string bytes_text(std::uint64_t bytes) {
    const auto value = static_cast<double>(bytes);
    if (value >= 1e9) return fmt::format("{:.2f} GB", value / 1e9);
    if (value >= 1e6) return fmt::format("{:.1f} MB", value / 1e6);
    return fmt::format("{:.1f} kB", value / 1e3);
}

std::string share_text(std::uint64_t part, std::uint64_t whole) {
    return whole == 0 ? "" : fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string rope_text(const arch::Rope& rope) {
    std::string text = fmt::format("theta {}", rope.theta);
    switch (rope.scaling) {
        case arch::RopeScaling::none: break;
        case arch::RopeScaling::linear: text += fmt::format(", linear x{}", rope.factor); break;
        case arch::RopeScaling::dynamic: text += fmt::format(", dynamic x{}", rope.factor); break;
        case arch::RopeScaling::llama3: text += fmt::format(", llama3 x{}", rope.factor); break;
        case arch::RopeScaling::yarn: text += fmt::format(", yarn x{}", rope.factor); break;
        case arch::RopeScaling::longrope: text += fmt::format(", longrope x{}", rope.factor); break;
    }
    return text;
}

// A template as text that cannot drive a terminal, line breaks kept.
std::string printable_lines(std::string_view text) {
    std::string result;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        result += printable(text.substr(0, end), text.size()) + "\n";
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return result;
}

// ---- for people -------------------------------------------------------------------------------------------------

void print_field(std::string_view name, const std::string& value) { fmt::print("  {:<14}{}\n", name, value); }

void print_layers(const arch::ModelSpec& spec) {
    const auto moe_layers = std::ranges::count(spec.layers, arch::LayerKind::moe, &arch::LayerSpec::kind);
    print_field("layers", moe_layers > 0 && moe_layers < spec.num_layers
                              ? fmt::format("{} ({} with experts, {} dense)", spec.num_layers, moe_layers, spec.num_layers - moe_layers)
                              : fmt::format("{}", spec.num_layers));
    print_field("hidden", fmt::format("{}", spec.hidden_size));
    const auto sliding = std::ranges::count_if(spec.layers, [](const arch::LayerSpec& layer) { return layer.sliding_window > 0; });
    std::string attention = fmt::format("{} heads of {}, {} for keys and values", spec.num_heads, spec.head_dim, spec.num_kv_heads);
    if (sliding > 0) attention += fmt::format(", window {} on {} layers", std::ranges::max(spec.layers, {}, &arch::LayerSpec::sliding_window).sliding_window, sliding);
    print_field("attention", attention);
    if (moe_layers < spec.num_layers) print_field("mlp", fmt::format("width {}", spec.intermediate_size));
    if (!spec.is_moe()) return;
    print_field("experts", fmt::format("{} of width {}{}, top {}{}", spec.num_experts, spec.architecture->moe->zipped ? "up to " : "", arch::widest_expert(spec), spec.top_k,
                                       spec.norm_topk_prob ? ", weights sum to 1" : ", weights as they are"));
    if (spec.shared_width > 0) print_field("shared expert", fmt::format("width {}", spec.shared_width));
}

std::string tokenizer_text(const tokenizer::Tokenizer& tokenizer) {
    std::string text = fmt::format("{} tokens", tokenizer.vocab_size());
    for (const auto& [role, id] : {std::pair{"BOS", tokenizer.bos_id()}, {"EOS", tokenizer.eos_id()}})
        if (id) text += fmt::format(", {} {} ({})", role, printable(tokenizer.id_to_token(*id)), *id);
    return text + (tokenizer.adds_bos() ? ", BOS before every text" : "");
}

void print_model(const InspectReport& report) {
    if (report.spec) {
        const arch::ModelSpec& spec = *report.spec;
        print_field("architecture", fmt::format("{} ({})", spec.architecture->model_type, spec.architecture->hf_class));
        const auto active = static_cast<std::uint64_t>(spec.num_active_parameters()), all = static_cast<std::uint64_t>(spec.num_parameters());
        print_field("parameters", active == all ? count_text(all) : fmt::format("{}, {} active for a token", count_text(all), count_text(active)));
        print_layers(spec);
        print_field("vocabulary", fmt::format("{}{}", spec.vocab_size, spec.tied_embeddings ? ", head tied to the embedding" : ""));
        print_field("context", fmt::format("{}, rope {}", spec.max_positions, rope_text(spec.rope)));
    } else {
        print_field("parameters", count_text(report.num_parameters()));
    }
    std::string stored;
    for (const auto& [type, totals] : report.stored)
        stored += fmt::format("{}{} ({} tensors, {})", stored.empty() ? "" : ", ", type, totals.tensors, bytes_text(totals.bytes));
    print_field("stored as", fmt::format("{}: {}", format_name(report.checkpoint.format), stored));
    if (report.tokenizer) print_field("tokenizer", tokenizer_text(*report.tokenizer));
    print_field("chat template", report.chat_template ? fmt::format("{} characters (--chat-template shows it)", report.chat_template->size()) : "none");
}

void print_roles(const InspectReport& report) {
    std::uint64_t all = 0;
    for (const auto& [role, totals] : report.roles) all += totals.bytes;
    fmt::print("\n  {:<14}{:>9}{:>13}{:>12}{:>9}\n", "weights", "tensors", "parameters", "bytes", "share");
    for (const std::string_view role : role_order)
        if (const auto it = report.roles.find(std::string(role)); it != report.roles.end())
            fmt::print("  {:<14}{:>9}{:>13}{:>12}{:>9}\n", role, it->second.tensors, count_text(it->second.parameters), bytes_text(it->second.bytes),
                       share_text(it->second.bytes, all));
}

void print_tensors(const InspectReport& report) {
    std::size_t width = 20;
    for (const checkpoint::TensorInfo& info : report.tensors->tensors()) width = std::max(width, std::min<std::size_t>(printable(info.name).size(), 64));
    fmt::print("\n  {:<{}}  {:<8}{}\n", "tensor", width, "dtype", "shape");
    for (const checkpoint::TensorInfo& info : report.tensors->tensors()) {
        std::string line = fmt::format("  {:<{}}  {:<8}{}", printable(info.name), width, safetensors_name(info.dtype), checkpoint::shape_text(info.shape));
        if (const auto scan = report.scans.find(info.name); scan != report.scans.end() && is_floating(info.dtype))
            line += fmt::format("  largest {:.4g}", scan->second.largest);
        fmt::print("{}\n", line);
    }
}

void print_problems(const InspectReport& report, bool verified) {
    if (report.problems.empty()) {
        fmt::print("\n  no problems found{}\n", verified ? "" : " (--verify reads every weight)");
        return;
    }
    fmt::print("\n");
    for (const Problem& problem : report.problems) fmt::print("  {}: {}\n", problem.fatal ? "problem" : "note", problem.what);
}

void print_adapter(const Json& adapter) {
    const auto shown = [&](const char* key) { return printable(adapter.value(key, Json()).dump(-1, ' ', false, Json::error_handler_t::replace), 300); };
    print_field("adapter", shown("peft_type"));
    print_field("base model", shown("base_model_name_or_path"));
    print_field("rank", fmt::format("{}, alpha {}", shown("r"), shown("lora_alpha")));
    print_field("modules", shown("target_modules"));
}

// ---- for programs -----------------------------------------------------------------------------------------------

Json spec_json(const arch::ModelSpec& spec) {
    Json result{{"model_type", spec.architecture->model_type}, {"class", spec.architecture->hf_class}, {"parameters", spec.num_parameters()},
                {"active_parameters", spec.num_active_parameters()}, {"layers", spec.num_layers}, {"hidden_size", spec.hidden_size},
                {"heads", spec.num_heads}, {"kv_heads", spec.num_kv_heads}, {"head_dim", spec.head_dim}, {"intermediate_size", spec.intermediate_size},
                {"vocab_size", spec.vocab_size}, {"context", spec.max_positions}, {"tied_embeddings", spec.tied_embeddings}, {"moe", nullptr}};
    if (!spec.is_moe()) return result;
    Json layers = Json::array();
    for (std::size_t layer = 0; layer < spec.layers.size(); ++layer)
        if (spec.layers[layer].kind == arch::LayerKind::moe) layers.push_back(layer);
    result["moe"] = {{"experts", spec.num_experts}, {"top_k", spec.top_k}, {"expert_width", spec.expert_width}, {"shared_width", spec.shared_width},
                     {"norm_topk_prob", spec.norm_topk_prob}, {"routed_scaling_factor", spec.routed_scaling_factor}, {"layers", layers}};
    return result;
}

Json tensors_json(const InspectReport& report) {
    Json result = Json::array();
    for (const checkpoint::TensorInfo& info : report.tensors->tensors()) {
        Json entry{{"name", info.name}, {"dtype", safetensors_name(info.dtype)}, {"shape", info.shape}, {"bytes", info.num_bytes()}};
        if (const auto it = report.scans.find(info.name); it != report.scans.end()) {
            const checkpoint::TensorScan& scan = it->second;
            entry["sha256"] = scan.sha256;
            if (is_floating(info.dtype)) entry.update({{"nan", scan.nans}, {"inf", scan.infinities}, {"zeros", scan.zeros}, {"largest", scan.largest}});
        }
        result.push_back(std::move(entry));
    }
    return result;
}

Json report_json(const InspectReport& report, bool with_tensors, bool verified) {
    Json result{{"path", report.checkpoint.path.string()}};
    if (!report.adapter.is_null()) {
        result["adapter"] = report.adapter;
        return result;
    }
    result["format"] = format_name(report.checkpoint.format);
    result["model"] = report.spec ? spec_json(*report.spec) : Json(nullptr);
    result["parameters"] = report.num_parameters();
    for (const auto& [role, totals] : report.roles)
        result["roles"][role] = {{"tensors", totals.tensors}, {"parameters", totals.parameters}, {"bytes", totals.bytes}};
    for (const auto& [type, totals] : report.stored) result["stored"][type] = {{"tensors", totals.tensors}, {"bytes", totals.bytes}};
    result["tokenizer"] = nullptr;
    if (report.tokenizer) result["tokenizer"] = {{"tokens", report.tokenizer->vocab_size()}, {"adds_bos", report.tokenizer->adds_bos()}};
    result["chat_template"] = report.chat_template ? Json(*report.chat_template) : Json(nullptr);
    result["verified"] = verified;
    result["usable"] = report.usable();
    result["problems"] = Json::array();
    for (const Problem& problem : report.problems) result["problems"].push_back({{"severity", problem.fatal ? "problem" : "note"}, {"what", problem.what}});
    if (with_tensors) result["tensors"] = tensors_json(report);
    return result;
}

class Inspect final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("PATH", path_, "a model, or the directory of an adapter")->required();
        app.add_flag("--verify", verify_, "read every weight: NaN, infinities, routers that cannot tell experts apart");
        app.add_flag("--chat-template", chat_template_, "print the chat template and nothing else");
        app.footer(app.get_footer() + "-v lists every tensor; with --verify --json each has its sha256.\n"
                                      "Exit status 3 when the model cannot be used as it is.\n");
    }

    void run(const CommonOptions& common) override {
        InspectReport report = inspect_model(path_);
        if (chat_template_) return print_chat_template(report);
        if (verify_) verify_weights(report, common.json);
        if (common.json)
            fmt::print("{}\n", report_json(report, common.verbosity > 0, verify_).dump(2, ' ', false, Json::error_handler_t::replace));
        else
            print_report(report, common.verbosity > 0);
        if (report.usable()) return;
        const auto fatal = std::ranges::count_if(report.problems, &Problem::fatal);
        throw Error(ErrorCode::mismatch, fmt::format("{}: {} make{} the model unusable as it is", printable(path_, 1000),
                                                     fatal == 1 ? "a problem" : fmt::format("{} problems", fatal), fatal == 1 ? "s" : ""));
    }

private:
    static void print_chat_template(const InspectReport& report) {
        if (!report.chat_template) throw Error(ErrorCode::not_found, fmt::format("{}: there is no chat template", printable(report.checkpoint.name, 1000)));
        fmt::print("{}", printable_lines(*report.chat_template));
    }

    void print_report(const InspectReport& report, bool with_tensors) const {
        fmt::print("{}\n", printable(report.checkpoint.path.string(), 1000));
        if (!report.adapter.is_null()) return print_adapter(report.adapter);
        print_model(report);
        print_roles(report);
        if (with_tensors) print_tensors(report);
        print_problems(report, verify_);
    }

    std::string path_;
    bool verify_ = false, chat_template_ = false;
};

}  // namespace

std::unique_ptr<Verb> make_inspect() { return std::make_unique<Inspect>(); }

}  // namespace mixwright::verbs
