// A tokenizer.model: refused with an Error, or a tokenizer whose ids have tokens.
#include <cstdlib>

#include "error.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/sentencepiece_model.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const auto pipeline = tokenizer::pipeline_from_sentencepiece({reinterpret_cast<const char*>(data), size}, "fuzz");
        std::vector<tokenizer::TokenId> ids;
        pipeline.model->encode("ab  \xC3\xA4 12", *pipeline.model->make_scratch(), ids);
        std::vector<std::string> tokens;
        for (const auto id : ids) tokens.emplace_back(pipeline.model->vocabulary().token(id));
        pipeline.decoder(tokens);
    } catch (const Error&) {
    }
    return 0;
}
