// Typed access to the metadata of a GGUF file. It knows no key by name but the one that says the architecture.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "io/json.h"

namespace mixwright::arch {

/// Keys that start with a dot stand under "ARCHITECTURE.". Error(malformed), naming file and key, on a value of another kind.
class GgufMetadata {
public:
    /// `values` must outlive it. Error(malformed) when there is no general.architecture.
    GgufMetadata(const io::Json& values, std::string_view source);

    const std::string& architecture() const noexcept { return architecture_; }
    std::string_view source() const noexcept { return source_; }

    /// The value as it stands, or null.
    const io::Json* find(std::string_view key) const;
    /// A number, or an array that gives every layer the same; Error(unsupported) when layers differ.
    std::optional<std::int64_t> integer(std::string_view key) const;
    /// A positive integer that has to be there.
    std::int64_t size(std::string_view key) const;
    /// The shortest decimal that rounds to the stored float: 1e-5, not 9.99999974737875e-06.
    std::optional<double> number(std::string_view key) const;
    std::optional<bool> boolean(std::string_view key) const;
    std::string text(std::string_view key, std::optional<std::string> otherwise = std::nullopt) const;

    [[noreturn]] void wrong(std::string_view key, const io::Json& value, const char* expected) const;
    [[noreturn]] void unsupported(const std::string& what) const;

private:
    std::string full(std::string_view key) const { return key.starts_with('.') ? architecture_ + std::string(key) : std::string(key); }
    const io::Json& uniform(const io::Json& value, std::string_view key) const;
    [[noreturn]] void missing(std::string_view key) const;

    const io::Json& values_;
    std::string_view source_;
    std::string architecture_;
};

/// The shortest decimal that rounds to the same float, when `value` is one.
double as_written(double value);

}  // namespace mixwright::arch
