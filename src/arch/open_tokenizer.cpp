#include "arch/open_tokenizer.h"

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "tokenizer/gguf_vocab.h"

namespace mixwright::arch {

tokenizer::Tokenizer open_tokenizer(std::string_view model) {
    const std::filesystem::path path = checkpoint::resolve_model(model);
    if (path.extension() != ".gguf") return tokenizer::Tokenizer::load(path);
    return tokenizer::Tokenizer::from_gguf(tokenizer::gguf_vocab_from_metadata(checkpoint::open_gguf(path).metadata, path.string()),
                                           path.string());
}

std::optional<tokenizer::ChatTemplate> open_chat_template(std::string_view model) {
    const std::filesystem::path path = checkpoint::resolve_model(model);
    if (path.extension() != ".gguf")
        return tokenizer::ChatTemplate::load(std::filesystem::is_directory(path) ? path : path.parent_path());
    const auto vocab = tokenizer::gguf_vocab_from_metadata(checkpoint::open_gguf(path).metadata, path.string());
    if (vocab.chat_template.empty()) return {};
    std::map<std::string, std::string> tokens;
    const auto add = [&](const char* name, std::optional<std::int64_t> id) {
        if (id && *id >= 0 && static_cast<std::size_t>(*id) < vocab.tokens.size())
            tokens[name] = vocab.tokens[static_cast<std::size_t>(*id)];
    };
    add("bos_token", vocab.bos_id);
    add("eos_token", vocab.eos_id);
    add("unk_token", vocab.unk_id);
    add("pad_token", vocab.pad_id);
    return tokenizer::ChatTemplate(vocab.chat_template, path.string(), std::move(tokens));
}

}  // namespace mixwright::arch
