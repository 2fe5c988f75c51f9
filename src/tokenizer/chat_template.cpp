#include "tokenizer/chat_template.h"

#include "error.h"
#include "io/file.h"
#include "io/json.h"

namespace mixwright::tokenizer {

namespace {

namespace fs = std::filesystem;
using Texts = std::map<std::string, std::string>;

constexpr std::size_t kMaxTemplates = 64;
// tokenizer_config.json lists every added token: a few hundred kB in real models.
constexpr io::JsonLimits kConfigLimits{.bytes = 16u << 20, .depth = 64};

[[noreturn]] void fail(const jinja::Failure& failure, const std::string& origin) {
    const std::string where = failure.line > 0 ? origin + ": line " + std::to_string(failure.line) + ": " : origin + ": ";
    const std::string what = printable(failure.what(), 500);
    using Reason = jinja::Failure::Reason;
    switch (failure.reason) {
        case Reason::raised:
            throw Error(ErrorCode::mismatch, origin + ": the chat template refuses the conversation: " + what,
                        "change the roles or their order to what the template asks for");
        case Reason::syntax: throw Error(ErrorCode::malformed, where + what, "the chat template is no valid Jinja");
        case Reason::budget:
            throw Error(ErrorCode::malformed, where + what, "real chat templates stay far below these limits");
        case Reason::runtime: break;
    }
    throw Error(ErrorCode::malformed, where + what, "the chat template does not fit this conversation, or is wrong");
}

jinja::Template compile(const std::string& source, const std::string& origin) {
    try {
        return jinja::Template(source);
    } catch (const jinja::Failure& failure) {
        fail(failure, origin);
    }
}

/// A template as configuration files hold it: a string, a list of {"name", "template"}, or a map of names.
Texts read_templates(const io::Json& json, const std::string& origin) {
    Texts texts;
    if (json.is_array() || json.is_object()) {
        if (json.size() > kMaxTemplates) throw Error(ErrorCode::malformed, origin + ": chat_template: too many entries");
    } else if (!json.is_string() && !json.is_null()) {
        throw Error(ErrorCode::malformed, origin + ": chat_template: got a " + json.type_name() + ", expected a string");
    }
    if (json.is_string()) texts["default"] = json.get<std::string>();
    if (json.is_object())
        for (const auto& [name, text] : json.items())
            if (text.is_string()) texts[name] = text.get<std::string>();
    if (!json.is_array()) return texts;
    for (const auto& entry : json) {
        const auto text = [&](const char* key) {
            if (!entry.is_object() || !entry.contains(key) || !entry[key].is_string())
                throw Error(ErrorCode::malformed, origin + ": chat_template: an entry has no \"" + key + "\"");
            return entry[key].get<std::string>();
        };
        texts[text("name")] = text("template");
    }
    return texts;
}

void read_special_tokens(const io::Json& config, Texts& tokens) {
    if (!config.is_object()) return;
    for (const auto& [key, value] : config.items()) {
        if (!key.ends_with("_token")) continue;
        if (value.is_string()) tokens[key] = value.get<std::string>();
        else if (value.is_object() && value.contains("content") && value["content"].is_string())
            tokens[key] = value["content"].get<std::string>();
    }
}

Texts read_directory(const fs::path& folder) {
    Texts texts;
    std::error_code ignored;
    const std::size_t limit = jinja::Limits{}.template_bytes;
    if (fs::is_regular_file(folder / "chat_template.jinja", ignored))
        texts["default"] = io::read_file(folder / "chat_template.jinja", limit);
    if (fs::is_directory(folder / "additional_chat_templates", ignored))
        for (const auto& entry : fs::directory_iterator(folder / "additional_chat_templates", ignored))
            if (entry.path().extension() == ".jinja" && texts.size() < kMaxTemplates)
                texts[entry.path().stem().string()] = io::read_file(entry.path(), limit);
    return texts;
}

}  // namespace

ChatTemplate::ChatTemplate(Texts sources, std::string origin, Texts special_tokens)
    : sources_(std::move(sources)), origin_(std::move(origin)), special_tokens_(std::move(special_tokens)) {
    if (!sources_.contains("default")) {
        if (sources_.size() != 1)
            throw Error(ErrorCode::malformed, origin_ + ": chat_template: none of the templates is named \"default\"");
        const std::string only = sources_.begin()->second;
        sources_.emplace("default", only);
    }
    for (const auto& [name, source] : sources_) templates_.emplace(name, compile(source, origin_));
}

ChatTemplate::ChatTemplate(std::string_view source, std::string origin, Texts special_tokens)
    : ChatTemplate(Texts{{"default", std::string(source)}}, std::move(origin), std::move(special_tokens)) {}

std::optional<ChatTemplate> ChatTemplate::load(const fs::path& model_dir) {
    std::error_code ignored;
    const auto present = [&](const char* name) { return fs::is_regular_file(model_dir / name, ignored); };
    Texts sources = read_directory(model_dir), tokens;
    std::string origin = (model_dir / "chat_template.jinja").string();
    if (sources.empty() && present("chat_template.json")) {
        origin = (model_dir / "chat_template.json").string();
        const io::Json json = io::read_json(model_dir / "chat_template.json", kConfigLimits);
        sources = read_templates(json.is_object() && json.contains("chat_template") ? json["chat_template"] : json, origin);
    }
    if (present("special_tokens_map.json")) read_special_tokens(io::read_json(model_dir / "special_tokens_map.json"), tokens);
    if (present("tokenizer_config.json")) {
        const io::Json config = io::read_json(model_dir / "tokenizer_config.json", kConfigLimits);
        read_special_tokens(config, tokens);
        if (sources.empty() && config.is_object() && config.contains("chat_template")) {
            origin = (model_dir / "tokenizer_config.json").string();
            sources = read_templates(config["chat_template"], origin);
        }
    }
    if (sources.empty()) return {};
    return ChatTemplate(std::move(sources), std::move(origin), std::move(tokens));
}

std::string ChatTemplate::render(const Conversation& messages, const ChatOptions& options) const {
    return render_with_spans(messages, options).text;
}

jinja::Rendered ChatTemplate::render_with_spans(const Conversation& messages, const ChatOptions& options) const {
    const bool with_tools = !options.tools.is_null() && templates_.contains("tool_use");
    Conversation variables = Conversation::object();
    for (const auto& [token, text] : special_tokens_) variables[token] = text;
    for (const auto& [key, value] : options.variables.items()) variables[key] = value;
    variables["messages"] = messages;
    variables["tools"] = options.tools;
    variables["documents"] = options.documents;
    variables["add_generation_prompt"] = options.add_generation_prompt;
    try {
        return templates_.at(with_tools ? "tool_use" : "default").render(variables, options.now);
    } catch (const jinja::Failure& failure) {
        fail(failure, origin_);
    }
}

}  // namespace mixwright::tokenizer
