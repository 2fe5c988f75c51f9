#include "checkpoint/hub_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "error.h"
#include "io/file.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;

// One part of a repository's name: what the hub allows, and nothing that means something in a path.
bool is_name_part(std::string_view part) {
    return !part.empty() && part.size() <= 96 && part.front() != '.' && part.front() != '-' && part.find("--") == std::string_view::npos &&
           part.find("..") == std::string_view::npos && std::ranges::all_of(part, [](unsigned char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
           });
}

// Branches may hold slashes ("refs/pr/1"), but no step upwards.
bool is_revision(std::string_view revision) {
    return !revision.empty() && revision.size() <= 255 && revision.front() != '/' && revision.find("..") == std::string_view::npos &&
           std::ranges::all_of(revision, [](unsigned char c) { return c > 0x20 && c < 0x7F && c != '\\'; });
}

bool is_commit(std::string_view text) {
    return text.size() == 40 &&
           std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::optional<fs::path> environment_path(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr || *value == '\0' ? std::nullopt : std::optional<fs::path>(value);
}

}  // namespace

std::optional<HubName> parse_hub_name(std::string_view text) {
    HubName name;
    const std::size_t at = text.find('@');
    name.revision = at == std::string_view::npos ? "main" : text.substr(at + 1);
    name.repository = text.substr(0, at);
    const std::string_view repository = name.repository;
    const std::size_t slash = repository.find('/');
    const bool valid = slash == std::string_view::npos ? is_name_part(repository)
                                                       : is_name_part(repository.substr(0, slash)) && is_name_part(repository.substr(slash + 1));
    return valid && is_revision(name.revision) ? std::optional(name) : std::nullopt;
}

fs::path hub_cache_directory() {
    if (const auto path = environment_path("HF_HUB_CACHE")) return *path;
    if (const auto path = environment_path("HUGGINGFACE_HUB_CACHE")) return *path;
    if (const auto path = environment_path("HF_HOME")) return *path / "hub";
    if (const auto path = environment_path("XDG_CACHE_HOME")) return *path / "huggingface" / "hub";
    return environment_path("HOME").value_or("/") / ".cache" / "huggingface" / "hub";
}

fs::path find_in_hub_cache(const HubName& name, const fs::path& cache) {
    std::string folder = "models--" + name.repository;
    if (const std::size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
    const fs::path repository = cache / folder;
    const std::string hint = fmt::format("mixwright fetches nothing; with the hub's own tool: hf download {}{}", name.repository,
                                         name.revision == "main" ? "" : " --revision " + name.revision);
    if (!fs::is_directory(repository))
        throw Error(ErrorCode::not_found, fmt::format("{}: not in the hub cache {}", name.repository, io::shown(cache)), hint);

    std::string commit = name.revision;
    if (!is_commit(commit)) {
        const fs::path ref = repository / "refs" / name.revision;
        if (!fs::is_regular_file(ref))
            throw Error(ErrorCode::not_found, fmt::format("{}: revision {} is not in the hub cache {}", name.repository, name.revision, io::shown(cache)), hint);
        commit = io::read_file(ref, 1024);
        while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ' || commit.back() == '\r')) commit.pop_back();
        if (!is_commit(commit))
            throw Error(ErrorCode::malformed, fmt::format("{}: not a commit (got \"{}\")", io::shown(ref), printable(commit)));
    }
    const fs::path snapshot = repository / "snapshots" / commit;
    if (!fs::is_directory(snapshot))
        throw Error(ErrorCode::not_found, fmt::format("{}: the files of revision {} are not in the hub cache {}", name.repository, name.revision, io::shown(cache)), hint);
    return snapshot;
}

}  // namespace mixwright::checkpoint
