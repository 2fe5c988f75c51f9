// What the verbs that generate text share: how tokens are chosen and where they stop. Flags are spelled as in llama.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "generate/engine.h"
#include "generate/stop_strings.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::verbs {

/// -n, -c, --temp, --top-k, --top-p, --min-p, --repeat-penalty and --stop.
void declare_sampling(CLI::App& app, generate::GenerateOptions& options, std::vector<std::string>& stop_strings);

/// The ids that end a text of this model.
std::vector<std::int64_t> stop_ids(const tokenizer::Tokenizer& tokenizer, const arch::OpenModel& files);

/// Text of a generation as it comes, up to the first stop string.
class TextStream {
public:
    TextStream(const tokenizer::Tokenizer& tokenizer, const std::vector<std::string>& stop_strings, std::function<void(const std::string&)> show)
        : decoder_(tokenizer), stop_(stop_strings), show_(std::move(show)) {}

    /// Takes the next token; false when a stop string is complete.
    bool push(std::int64_t id);
    /// Call it once at the end; returns the whole text.
    std::string finish();

private:
    void emit(const std::string& piece);

    tokenizer::StreamDecoder decoder_;
    generate::StopStrings stop_;
    std::function<void(const std::string&)> show_;
    std::string text_;
};

}  // namespace mixwright::verbs
