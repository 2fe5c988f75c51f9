// SentencePiece's character map, as the bytes behind its base64: refused with an Error, or it maps text to text.
#include <cstdlib>
#include <span>

#include "error.h"
#include "tokenizer/precompiled_charsmap.h"
#include "tokenizer/unicode_text.h"

using namespace mixwright;

namespace {

std::string base64(std::span<const std::uint8_t> bytes) {
    constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t group = 0;
        for (std::size_t j = 0; j < 3; ++j) group = group << 8 | (i + j < bytes.size() ? bytes[i + j] : 0);
        for (std::size_t j = 0; j < 4; ++j) text += i + j < bytes.size() + 1 ? digits[group >> (18 - 6 * j) & 63] : '=';
    }
    return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const auto map = tokenizer::PrecompiledCharsmap::from_base64(base64({data, size}), "fuzz");
        const std::string mapped = map.normalize("ab \xC3\xA4" "e\xCC\x81 \xEF\xBD\xB1\xE2\x84\xAB \xF0\x9F\x98\x80\t");
        if (tokenizer::valid_utf8_prefix(mapped) != mapped.size()) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
