#include "arch/open_chat_template.h"

#include "arch/open_tokenizer.h"

namespace mixwright::arch {

std::optional<tokenizer::ChatTemplate> open_chat_template(const checkpoint::Checkpoint& model) {
    if (model.format != checkpoint::Format::gguf) return tokenizer::ChatTemplate::load(model.path);
    const auto source = model.config.find("tokenizer.chat_template");
    if (source == model.config.end() || !source->is_string()) return std::nullopt;

    const tokenizer::Tokenizer tokenizer = open_tokenizer(model.path.string());
    std::map<std::string, std::string> special_tokens;
    const auto add = [&](const char* name, std::optional<tokenizer::TokenId> id) {
        if (id) special_tokens[name] = tokenizer.id_to_token(*id);
    };
    add("bos_token", tokenizer.bos_id());
    add("eos_token", tokenizer.eos_id());
    add("pad_token", tokenizer.pad_id());
    add("unk_token", tokenizer.unk_id());
    return tokenizer::ChatTemplate(source->get<std::string>(), model.path.string() + ": tokenizer.chat_template", std::move(special_tokens));
}

}  // namespace mixwright::arch
