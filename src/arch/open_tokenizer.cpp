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

}  // namespace mixwright::arch
