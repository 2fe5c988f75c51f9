// Strict, bounded YAML: what recipes are read through. Every complaint names file and line, and the reader of a mapping
// says which keys it knows, so that a mistyped key is an error and never a silent default.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mixwright::io {

struct YamlLimits {
    std::size_t bytes = 4u << 20;     // prompts included, a recipe is a few kB
    std::size_t depth = 32;
    std::size_t nodes = 200'000;      // counted with every alias written out: the bound on alias bombs
};

/// A value of a YAML document with the line it stands on. Copies share the document.
class Yaml {
public:
    /// Error(not_found), or Error(recipe) on bad syntax, excess size, depth or aliases, a key that occurs twice, or
    /// more than one document.
    static Yaml read(const std::filesystem::path& path, YamlLimits limits = {});
    static Yaml parse(std::string_view text, std::string_view source, YamlLimits limits = {});

    bool is_null() const noexcept;
    bool is_scalar() const noexcept;
    bool is_list() const noexcept;
    bool is_map() const noexcept;

    /// A scalar as it is written. The readers below throw Error(recipe) when the value is not of their kind.
    const std::string& text() const;
    bool boolean() const;
    std::int64_t integer(std::int64_t low, std::int64_t high) const;
    double number(double low, double high) const;
    std::vector<Yaml> items() const;
    /// A list of texts; a single text counts as a list of one.
    std::vector<std::string> texts() const;

    /// The keys of a mapping and their values, as they stand.
    std::vector<std::pair<std::string, Yaml>> entries() const;
    /// Refuses a mapping with a key that is not in `known`.
    void expect_keys(std::span<const std::string_view> known) const;
    /// The value of `key` in a mapping; nothing when it is absent or null.
    std::optional<Yaml> get(std::string_view key) const;
    /// The same; Error(recipe) when it is absent or null.
    Yaml at(std::string_view key) const;

    /// "recipe.yml:12"
    std::string place() const;
    /// Throws Error(recipe) "recipe.yml:12: `what`".
    [[noreturn]] void refuse(const std::string& what, std::string hint = {}) const;

    struct Node;

private:
    Yaml(std::shared_ptr<const std::string> source, std::shared_ptr<const Node> node);
    std::shared_ptr<const std::string> source_;
    std::shared_ptr<const Node> node_;
};

}  // namespace mixwright::io
