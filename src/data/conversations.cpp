#include "data/conversations.h"

#include <utility>

#include "arch/open_tokenizer.h"
#include "error.h"

namespace mixwright::data {
namespace {

using tokenizer::ChatTemplate;
using tokenizer::Conversation;

void append(std::vector<Segment>& segments, std::string text, bool learn) {
    if (!text.empty()) segments.push_back({std::move(text), learn});
}

std::vector<Segment> by_generation_blocks(const jinja::Rendered& rendered) {
    std::vector<Segment> segments;
    std::size_t done = 0;
    for (const auto& [first, second] : rendered.generations) {
        append(segments, rendered.text.substr(done, first - done), false);
        append(segments, rendered.text.substr(first, second - first), true);
        done = second;
    }
    append(segments, rendered.text.substr(done), false);
    return segments;
}

std::vector<Segment> by_growth(const ChatTemplate& chat, const Conversation& messages, const std::string& whole) {
    std::vector<Segment> segments;
    std::size_t done = 0;  // of `whole`
    Conversation so_far = Conversation::array();
    for (const Conversation& message : messages) {
        const bool assistant = message.is_object() && message.value("role", Conversation()) == "assistant";
        const std::string prompt = assistant ? chat.render(so_far, {.add_generation_prompt = true}) : std::string();
        so_far.push_back(message);
        if (!assistant) continue;
        const std::string answered = chat.render(so_far);
        if (!whole.starts_with(answered) || !answered.starts_with(prompt) || prompt.size() < done)
            throw Error(ErrorCode::mismatch, "the chat template writes earlier turns differently once later ones follow",
                        "use a template with {% generation %} blocks, or give `prompt` and `completion`");
        append(segments, whole.substr(done, prompt.size() - done), false);
        append(segments, whole.substr(prompt.size(), answered.size() - prompt.size()), true);
        done = answered.size();
    }
    append(segments, whole.substr(done), false);
    return segments;
}

}  // namespace

ChatRenderer chat_renderer(ChatTemplate chat) {
    return [chat = std::make_shared<const ChatTemplate>(std::move(chat))](const io::Json& json) {
        const Conversation messages = Conversation::parse(json.dump());
        const jinja::Rendered rendered = chat->render_with_spans(messages);
        return rendered.generations.empty() ? by_growth(*chat, messages, rendered.text) : by_generation_blocks(rendered);
    };
}

ChatRenderer chat_renderer_of(std::string_view model) {
    auto chat = arch::open_chat_template(model);
    return chat ? chat_renderer(std::move(*chat)) : ChatRenderer();
}

}  // namespace mixwright::data
