#include "error.h"

#include <utility>

namespace mixwright {

int exit_status(ErrorCode code) noexcept {
    switch (code) {
        case ErrorCode::usage:
        case ErrorCode::recipe: return 2;
        case ErrorCode::malformed:
        case ErrorCode::not_found:
        case ErrorCode::unsupported:
        case ErrorCode::mismatch: return 3;
        case ErrorCode::out_of_disk:
        case ErrorCode::out_of_memory: return 4;
        case ErrorCode::interrupted: return 130;
        case ErrorCode::io:
        case ErrorCode::failed:
        case ErrorCode::internal: return 1;
    }
    return 1;
}

Error::Error(ErrorCode code, std::string message, std::string hint)
    : code_(code), message_(std::move(message)), hint_(std::move(hint)), what_(message_) {
    if (!hint_.empty()) what_ += "\n  hint: " + hint_;
}

namespace {

// Length of the valid UTF-8 sequence at the start of `text`, or 0.
std::size_t utf8_length(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    const std::size_t length = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3
                               : lead >= 0xF0 && lead < 0xF5               ? 4
                                                                           : 0;
    if (length == 0 || length > text.size()) return 0;
    for (std::size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xC0) != 0x80) return 0;
    if (lead == 0xE0 && byte(1) < 0xA0) return 0;  // overlong
    if (lead == 0xED && byte(1) > 0x9F) return 0;  // surrogate
    if (lead == 0xF0 && byte(1) < 0x90) return 0;  // overlong
    if (lead == 0xF4 && byte(1) > 0x8F) return 0;  // above U+10FFFF
    return length;
}

}  // namespace

std::string printable(std::string_view text, std::size_t limit) {
    static constexpr char hex[] = "0123456789abcdef";
    std::string out;
    while (!text.empty()) {
        if (out.size() >= limit) return out + "...";
        const std::size_t length = utf8_length(text);
        const auto lead = static_cast<unsigned char>(text[0]);
        // U+0080..U+009F are control characters too (C1), written 0xC2 0x80..0x9F.
        const bool control = lead < 0x20 || lead == 0x7F ||
                             (length == 2 && lead == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0);
        if (length == 0 || control) {
            out += {'\\', 'x', hex[lead >> 4], hex[lead & 15]};
            text.remove_prefix(1);
        } else {
            out += text.substr(0, length);
            text.remove_prefix(length);
        }
    }
    return out;
}

}  // namespace mixwright
