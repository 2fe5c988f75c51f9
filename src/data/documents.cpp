#include "data/documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "data/json_lines.h"
#include "error.h"
#include "io/file.h"
#include "progress.h"

namespace mixwright::data {
namespace {

namespace fs = std::filesystem;
using io::Json;

// Data sets are read whole; beyond this they no longer fit beside a model.
constexpr std::size_t file_limit = 8ull << 30;
constexpr io::JsonLimits line_limits{.bytes = 64u << 20, .depth = 64};

[[noreturn]] void refuse(const std::string& place, const std::string& what, std::string hint = {}) {
    throw Error(ErrorCode::malformed, place + ": " + what, std::move(hint));
}

const std::string& text_field(const Json& line, const char* key, const std::string& place) {
    const auto it = line.find(key);
    if (it == line.end()) refuse(place, fmt::format("`{}` is missing", key));
    if (!it->is_string()) refuse(place, fmt::format("`{}` is no text", key));
    return it->get_ref<const std::string&>();
}

Document read_line(const Json& line, const std::string& place, const ChatRenderer& render_chat) {
    if (!line.is_object()) refuse(place, "not a JSON object");
    Document document{.place = place};
    if (line.contains("messages")) {
        if (!line["messages"].is_array()) refuse(place, "`messages` is no list");
        if (!render_chat) refuse(place, "`messages` need a chat template, and the model has none", "give `text`, or `prompt` and `completion`");
        document.segments = render_chat(line["messages"]);
        document.has_special_tokens = true;
    } else if (line.contains("prompt")) {
        document.segments = {{text_field(line, "prompt", place), false}, {text_field(line, "completion", place), true}};
    } else if (line.contains("question")) {
        // The form evaluation harnesses ask in.
        document.segments = {{fmt::format("Question: {}\nAnswer:", text_field(line, "question", place)), false},
                             {" " + text_field(line, "answer", place), true}};
    } else if (line.contains("text")) {
        document.segments = {{text_field(line, "text", place), true}};
    } else {
        refuse(place, "no known key", "a line holds `text`, or `prompt` and `completion`, or `question` and `answer`, or `messages`");
    }
    return document;
}

bool looks_binary(const std::string& content) { return std::string_view(content).substr(0, 8192).find('\0') != std::string_view::npos; }

bool is_json_lines(const fs::path& path) { return path.extension() == ".jsonl" || path.extension() == ".ndjson"; }

void read_one(const fs::path& path, bool in_folder, const ChatRenderer& render_chat, std::vector<Document>& documents) {
    if (is_json_lines(path)) {
        for_each_json_line(path, file_limit, line_limits, [&](const Json& line, const std::string& place) {
            documents.push_back(read_line(line, place, render_chat));
            return true;
        });
        return;
    }
    std::string content = io::read_file(path, file_limit);
    if (looks_binary(content)) {
        if (!in_folder) refuse(io::shown(path), "not a text file (it holds zero bytes)", "give a text file, a .jsonl file or a folder of either");
        info(fmt::format("{}: binary, left out", io::shown(path)));
    } else if (!content.empty()) {
        documents.push_back({.segments = {{std::move(content), true}}, .place = io::shown(path)});
    }
}

std::vector<fs::path> files_below(const fs::path& folder) {
    std::vector<fs::path> files;
    for (auto it = fs::recursive_directory_iterator(folder); it != fs::recursive_directory_iterator(); ++it) {
        if (it->path().filename().string().starts_with(".")) {
            if (it->is_directory()) it.disable_recursion_pending();
        } else if (it->is_regular_file()) {
            files.push_back(it->path());
        }
    }
    std::ranges::sort(files);
    return files;
}

}  // namespace

std::string Document::text() const {
    std::string whole;
    for (const Segment& segment : segments) whole += segment.text;
    return whole;
}

std::vector<Document> read_documents(const fs::path& path, const ChatRenderer& render_chat) {
    std::vector<Document> documents;
    std::error_code error;
    if (fs::is_directory(path, error)) {
        for (const fs::path& file : files_below(path)) read_one(file, true, render_chat, documents);
    } else {
        read_one(path, false, render_chat, documents);
    }
    std::erase_if(documents, [](const Document& d) { return std::ranges::all_of(d.segments, [](const Segment& s) { return s.text.empty(); }); });
    if (documents.empty()) refuse(io::shown(path), "no text in it", "give a text file, a .jsonl file or a folder of either");
    return documents;
}

}  // namespace mixwright::data
