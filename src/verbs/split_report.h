// What a split is worth: the MoE and each dense model side by side, on texts that nothing was fitted to.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "data/packing.h"
#include "io/json.h"
#include "tokenizer/tokenizer.h"
#include "verbs/verb.h"

namespace mixwright::verbs {

struct JudgeText {
    std::string name;
    data::TokenStream tokens;
};

/// How fast a model runs here, and what it writes.
struct Speed {
    double prefill = 0, decode = 0;          // tokens/s
    std::string sample;                      // after SplitReport's prompt, greedily
};

struct JudgedModel {
    std::string name;
    std::int64_t parameters = 0, active_parameters = 0;
    std::uint64_t bytes = 0;                 // of the tensors
    std::vector<double> perplexity;          // by text
    std::optional<Speed> speed;              // of models that are not too large to be held in memory beside
};

class SplitReport {
public:
    SplitReport(std::vector<JudgeText> texts, tokenizer::Tokenizer tokenizer, std::int64_t context, const CommonOptions& common);

    /// Adds a line. Perplexities take one layer at a time in memory.
    void judge(std::string name, const arch::OpenModel& model);

    bool empty() const noexcept { return lines_.empty(); }
    const std::vector<JudgedModel>& lines() const noexcept { return lines_; }
    /// A table in markdown, and the samples below it.
    std::string markdown() const;
    io::Json json() const;

private:
    Speed measure(const arch::OpenModel& model) const;

    std::vector<JudgeText> texts_;
    tokenizer::Tokenizer tokenizer_;
    std::int64_t context_;
    const CommonOptions& common_;
    std::vector<std::int64_t> prompt_, long_prompt_;
    std::vector<JudgedModel> lines_;
};

/// Puts `text` in the place of the file `path`, at once.
void replace_text_file(const std::string& path, const std::string& text);

}  // namespace mixwright::verbs
