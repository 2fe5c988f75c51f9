// Typed, ranged access to the keys of a config.json. Config is data: a key we do not ask for steers nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace mixwright::arch {

/// The value at `path` ("attn_config.kv_n_heads"), or null when a step of it is missing.
const io::Json* find_path(const io::Json& object, std::string_view path);

class ConfigReader {
public:
    /// `object` must be a JSON object (else Error(malformed)) and outlive the reader; `source` names it in messages.
    ConfigReader(const io::Json& object, std::string source);

    /// The value of `key`, or null when it is absent or null.
    const io::Json* find(std::string_view key) const;
    bool has(std::string_view key) const { return find(key) != nullptr; }
    /// Whether `key` is there at all, be it null: "none" said aloud is no default.
    bool says(std::string_view key) const { return object_.contains(key); }

    /// The value of `key` when present. Error(malformed) when it is not of the type or not in [min, max].
    std::optional<std::int64_t> integer(std::string_view key, std::int64_t min, std::int64_t max) const;
    std::optional<double> number(std::string_view key, double min, double max) const;
    std::optional<bool> boolean(std::string_view key) const;
    std::optional<std::string> text(std::string_view key) const;
    /// A number or a list of numbers (eos_token_id); empty when absent.
    std::vector<std::int64_t> integers(std::string_view key, std::int64_t min, std::int64_t max) const;
    /// A list of numbers; empty when absent.
    std::vector<double> numbers(std::string_view key, double min, double max, std::size_t max_count) const;

    /// The value of `key`; Error(malformed) when absent.
    std::int64_t require_integer(std::string_view key, std::int64_t min, std::int64_t max) const;

    const std::string& source() const noexcept { return source_; }
    /// Throws Error(malformed) "source: key: problem".
    [[noreturn]] void fail(std::string_view key, std::string_view problem) const;

private:
    std::int64_t as_integer(std::string_view key, const io::Json& value, std::int64_t min, std::int64_t max) const;
    double as_number(std::string_view key, const io::Json& value, double min, double max) const;

    const io::Json& object_;
    std::string source_;
};

}  // namespace mixwright::arch
