// A whole GGUF file as a model: refused with an Error, or a config, tensors under Hugging Face names that lie inside the
// stored ones, and a tokenizer.
#include <ggml.h>

#include <cstdlib>

#include "arch/canonical.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_header.h"
#include "error.h"
#include "plain_source.h"
#include "tokenizer/gguf_vocab.h"
#include "tokenizer/tokenizer.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    checkpoint::GgufHeader header;
    try {
        header = checkpoint::parse_gguf_header(std::as_bytes(std::span(data, size)), "fuzz");
        std::vector<checkpoint::TensorInfo> infos;
        for (const auto& tensor : header.tensors) infos.push_back({tensor.name, tensor.type == GGML_TYPE_F16 ? Dtype::f16 : Dtype::f32, tensor.shape});
        if (auto source = fuzz::PlainSource::make(std::move(infos)))
            fuzz::read_all(*arch::open_model({"fuzz", "fuzz.gguf", checkpoint::Format::gguf, checkpoint::without_vocabulary(header.metadata), source}).tensors);
    } catch (const Error&) {
    }
    try {
        const tokenizer::GgufVocab vocab = tokenizer::gguf_vocab_from_metadata(header.metadata, "fuzz");
        const auto tokenizer = tokenizer::Tokenizer::from_json(tokenizer::to_tokenizer_json(vocab, "fuzz"), "fuzz");
        tokenizer::to_tokenizer_config(vocab, "fuzz");
        tokenizer.decode(tokenizer.encode("ab don't 12\n"));
    } catch (const Error&) {
    }
    return 0;
}
