// SentencePiece's precompiled character map: a double-array trie from character sequences to their replacements.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mixwright::tokenizer {

/// Immutable, cheap to copy.
class PrecompiledCharsmap {
public:
    /// Error(malformed), naming `where`, when the map does not hold together.
    static PrecompiledCharsmap from_base64(std::string_view text, const std::string& where);
    std::string normalize(std::string_view text) const;

private:
    struct Data {
        std::vector<std::uint32_t> trie;
        std::string replacements;  // each ends with NUL
    };
    std::optional<std::string_view> replacement(std::string_view characters) const;

    std::shared_ptr<const Data> data_;
};

}  // namespace mixwright::tokenizer
