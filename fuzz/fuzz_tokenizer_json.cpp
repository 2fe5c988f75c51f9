// A tokenizer.json: refused with an Error, or a tokenizer whose ids have tokens.
#include <cstdlib>

#include "error.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_json.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const io::Json json = io::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz", tokenizer::tokenizer_json_limits);
        const auto tokenizer = tokenizer::Tokenizer::from_json(json, "fuzz");
        const auto ids = tokenizer.encode("ab  don't <s> 123\n\xE4\xB8\x80 \xF0\x9F\x98\x80!", {.add_special_tokens = false});
        for (const auto id : ids)
            if (id < 0 || static_cast<std::size_t>(id) >= tokenizer.vocab_size()) std::abort();
        tokenizer.decode(ids);
    } catch (const Error&) {
    }
    return 0;
}
