// Any bytes as text, for a byte-level tokenizer that knows every byte: decoding gives the text back, invalid UTF-8
// replaced, in one piece and streamed.
#include <cstdlib>

#include "tokenizer/byte_level.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode_text.h"

using namespace mixwright;

namespace {

tokenizer::Tokenizer make() {
    io::Json vocabulary, merges = {"a b", "ab ab"};
    for (int byte = 0; byte < 256; ++byte) {
        const auto character = static_cast<char>(byte);
        vocabulary[tokenizer::to_byte_alphabet({&character, 1})] = byte;
    }
    vocabulary["ab"] = 256;
    vocabulary["abab"] = 257;
    const char* expression = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    const io::Json split = {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}};
    const io::Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    return tokenizer::Tokenizer::from_json({{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}}, {"decoder", bytes},
                                            {"added_tokens", {{{"id", 258}, {"content", "<s>"}, {"special", true}}}},
                                            {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}},
                                           "fuzz");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const tokenizer::Tokenizer tokenizer = make();
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto ids = tokenizer.encode(text);
    const std::string whole = tokenizer.decode(ids);
    if (whole != tokenizer::replace_invalid_utf8(text)) std::abort();
    tokenizer::StreamDecoder stream(tokenizer, false);
    std::string streamed;
    for (const auto id : ids) streamed += stream.push(id);
    if (streamed + stream.finish() != whole) std::abort();
    return 0;
}
