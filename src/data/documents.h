// Reads a data set from disk: text files, .jsonl files, folders of either. Knows nothing of tokens.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "io/json.h"

namespace mixwright::data {

/// A stretch of text, and whether a loss counts its tokens (a completion) or only reads them (a prompt).
struct Segment {
    std::string text;
    bool learn = true;
    bool operator==(const Segment&) const = default;
};

/// One text of a data set: a file, or a line of a .jsonl.
struct Document {
    std::vector<Segment> segments;
    std::string place;             // "corpus.jsonl:12"
    bool has_special_tokens = false;  // a chat template wrote BOS and end of turn already

    std::string text() const;      // all segments, one after another
};

/// Turns the `messages` array of a line into segments. Error(mismatch) when the conversation is refused.
using ChatRenderer = std::function<std::vector<Segment>(const io::Json& messages)>;

/// Every document of `path`, in a fixed order. A text file is one document. Each line of a .jsonl is an object with
/// `text`; or `prompt` and `completion`; or `question` and `answer`; or `messages`, for which `render_chat` is needed:
/// loss is counted on the second of a pair and on what the assistant says. A folder is read recursively in the order of
/// names; hidden and binary files are left out.
/// Error(not_found); Error(malformed) naming file and line; Error(malformed) when there is no text at all.
std::vector<Document> read_documents(const std::filesystem::path& path, const ChatRenderer& render_chat = {});

}  // namespace mixwright::data
