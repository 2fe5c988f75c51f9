// A model's chat template: where it lies, what it is given, how its refusals read.
// Knows nothing of token ids.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "jinja/template.h"

namespace mixwright::tokenizer {

/// Conversations keep the order of their keys: templates print tools and arguments as they come.
using Conversation = nlohmann::ordered_json;

struct ChatOptions {
    bool add_generation_prompt = false;
    Conversation tools;      // an array of JSON schemas, or null
    Conversation documents;  // an array of objects, or null
    /// Further variables of the template (enable_thinking, ...): an object.
    Conversation variables = Conversation::object();
    std::time_t now = 0;     // for templates that print the date; 0 is the present
};

class ChatTemplate {
public:
    /// `source` is Jinja text; `origin` names it in messages. Error(malformed) when it cannot be parsed.
    ChatTemplate(std::string_view source, std::string origin, std::map<std::string, std::string> special_tokens = {});

    /// The template of a model directory: chat_template.jinja with additional_chat_templates/, else chat_template.json,
    /// else `chat_template` in tokenizer_config.json; special tokens come from tokenizer_config.json and
    /// special_tokens_map.json. Nothing when the model has none. Error(malformed) when it cannot be parsed.
    static std::optional<ChatTemplate> load(const std::filesystem::path& model_dir);

    /// The text of `messages` (an array of {"role", "content", ...}). A model may bring several templates: "tool_use"
    /// is taken when there are tools, otherwise "default".
    /// Error(mismatch) with the template's own words when it refuses the conversation, Error(malformed) when it fails.
    std::string render(const Conversation& messages, const ChatOptions& options = {}) const;

    /// The same, with the byte ranges that {% generation %} blocks wrote: what the assistant said.
    jinja::Rendered render_with_spans(const Conversation& messages, const ChatOptions& options = {}) const;

    /// The Jinja text of the template used without tools.
    const std::string& source() const { return sources_.at("default"); }
    const std::map<std::string, std::string>& special_tokens() const noexcept { return special_tokens_; }

private:
    ChatTemplate(std::map<std::string, std::string> sources, std::string origin,
                 std::map<std::string, std::string> special_tokens);

    std::map<std::string, std::string> sources_;
    std::map<std::string, jinja::Template> templates_;
    std::string origin_;
    std::map<std::string, std::string> special_tokens_;
};

}  // namespace mixwright::tokenizer
