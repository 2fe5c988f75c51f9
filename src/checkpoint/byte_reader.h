// A cursor over untrusted bytes: every read is checked against the end, every failure names the file and the offset.
// It knows no format.
#pragma once

#include <fmt/format.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "error.h"

namespace mixwright::checkpoint {

static_assert(std::endian::native == std::endian::little, "files are little-endian and read as they are");

class ByteReader {
public:
    ByteReader(std::span<const std::byte> bytes, std::string source, std::uint64_t offset = 0)
        : bytes_(bytes), source_(std::move(source)), offset_(offset) {}

    const std::string& source() const noexcept { return source_; }
    std::uint64_t offset() const noexcept { return offset_; }
    std::uint64_t remaining() const noexcept { return bytes_.size() - offset_; }
    bool at_end() const noexcept { return remaining() == 0; }

    /// The next `count` bytes; Error(malformed) saying that `what` runs past the end.
    std::span<const std::byte> take(std::uint64_t count, const char* what) {
        if (count > remaining())
            fail(fmt::format("{} runs past the end of the file (needs {} bytes, {} are left)", what, count, remaining()),
                 "the file is truncated, or a download was cut off");
        const auto piece = bytes_.subspan(offset_, count);
        offset_ += count;
        return piece;
    }

    /// A little-endian number.
    template <class T>
        requires std::is_arithmetic_v<T>
    T number(const char* what) {
        T value;
        std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
        return value;
    }

    std::string_view text(std::uint64_t length, const char* what) {
        const auto piece = take(length, what);
        return {reinterpret_cast<const char*>(piece.data()), piece.size()};
    }

    /// The bytes up to the next newline, which is consumed but not returned.
    std::string_view line(const char* what) {
        const auto rest = bytes_.subspan(offset_);
        const void* end = rest.empty() ? nullptr : std::memchr(rest.data(), '\n', rest.size());
        if (end == nullptr) fail(fmt::format("{} is not ended by a newline", what));
        const auto length = static_cast<std::uint64_t>(static_cast<const std::byte*>(end) - rest.data());
        const std::string_view result = text(length, what);
        ++offset_;
        return result;
    }

    /// Throws Error(malformed) "SOURCE: at byte OFFSET: message".
    [[noreturn]] void fail(const std::string& message, std::string hint = {}) const { fail_at(offset_, message, std::move(hint)); }
    [[noreturn]] void fail_at(std::uint64_t offset, const std::string& message, std::string hint = {}) const {
        throw Error(ErrorCode::malformed, fmt::format("{}: at byte {}: {}", source_, offset, message), std::move(hint));
    }

private:
    std::span<const std::byte> bytes_;
    std::string source_;
    std::uint64_t offset_;
};

}  // namespace mixwright::checkpoint
