// Names of the Hugging Face hub, looked up in its cache on this machine. Nothing is ever fetched.
//
//   CACHE/models--ORG--NAME/refs/REV            the commit that a branch or tag stands at
//   CACHE/models--ORG--NAME/snapshots/COMMIT/   the files
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace mixwright::checkpoint {

struct HubName {
    std::string repository;  // "org/name" or "name"
    std::string revision;    // branch, tag or commit; "main" when none was given
};

/// Splits "org/name[@rev]"; nothing when `text` cannot be such a name.
std::optional<HubName> parse_hub_name(std::string_view text);

/// HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub: the first
/// of them whose variable is set.
std::filesystem::path hub_cache_directory();

/// The snapshot of `name` in `cache`. Error(not_found) says what is missing: the repository, the revision or its files.
std::filesystem::path find_in_hub_cache(const HubName& name, const std::filesystem::path& cache);

}  // namespace mixwright::checkpoint
