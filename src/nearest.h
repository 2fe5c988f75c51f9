// "Did you mean": the known name nearest to a mistyped one.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace mixwright {

/// The candidate with the smallest edit distance (transpositions count one), or empty when none is near enough to be
/// a likely slip: more than a third of the length, at least two edits, is a different word.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

/// "did you mean \"gate_mode\"? ", or empty.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace mixwright
