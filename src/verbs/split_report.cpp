#include "verbs/split_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "error.h"
#include "evaluate/perplexity.h"
#include "generate/engine.h"
#include "io/file.h"
#include "verbs/model_options.h"

namespace mixwright::verbs {
namespace {

constexpr std::size_t prompt_tokens = 24, long_prompt_tokens = 256;
constexpr std::int64_t sample_tokens = 48;
constexpr std::uint64_t largest_resident = std::uint64_t{4} << 30;

std::vector<std::int64_t> first_tokens(const JudgeText& text, std::size_t count) {
    const auto& ids = text.tokens.ids;
    return {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(count, ids.size()))};
}

std::uint64_t bytes_of(const arch::OpenModel& model) {
    std::uint64_t bytes = 0;
    for (const checkpoint::TensorInfo& tensor : model.tensors->tensors()) bytes += tensor.num_bytes();
    return bytes;
}

double rate(std::size_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }

// Text in a markdown paragraph: one line, no markup of its own.
std::string quoted(std::string text) {
    for (char& c : text) c = c == '\n' || c == '\t' ? ' ' : c == '`' ? '\'' : c;
    return fmt::format("`` {} ``", printable(text, 400));
}

}  // namespace

SplitReport::SplitReport(std::vector<JudgeText> texts, tokenizer::Tokenizer tokenizer, std::int64_t context, const CommonOptions& common)
    : texts_(std::move(texts)), tokenizer_(std::move(tokenizer)), context_(context), common_(common) {
    if (texts_.empty()) return;
    prompt_ = first_tokens(texts_[0], prompt_tokens);
    long_prompt_ = first_tokens(texts_[0], static_cast<std::size_t>(std::min<std::int64_t>(long_prompt_tokens, context_ - 1)));
}

void SplitReport::judge(std::string name, const arch::OpenModel& model) {
    JudgedModel line{.name = std::move(name), .parameters = model.spec.num_parameters(), .active_parameters = model.spec.num_active_parameters(), .bytes = bytes_of(model)};
    for (const JudgeText& text : texts_)
        line.perplexity.push_back(
            evaluate::perplexity_streamed(model, placement_for(common_, model), text.tokens, std::nullopt, {.context = std::min(context_, model.spec.max_positions)}).perplexity());
    if (!prompt_.empty() && line.bytes <= largest_resident) line.speed = measure(model);
    lines_.push_back(std::move(line));
}

Speed SplitReport::measure(const arch::OpenModel& model) const {
    const model::Model resident = model::load_model(model, placement_for(common_, model));
    // The first generation also brings the weights into memory.
    const auto sample = generate::generate(resident, prompt_, {.max_new_tokens = sample_tokens});
    const auto prefill = generate::generate(resident, long_prompt_, {.max_new_tokens = 1});
    const std::vector<tokenizer::TokenId> ids(sample.ids.begin(), sample.ids.end());
    return {rate(long_prompt_.size(), prefill.prompt_seconds), rate(sample.ids.size(), sample.decode_seconds), tokenizer_.decode(ids, true)};
}

std::string SplitReport::markdown() const {
    std::string table = "| model | parameters | active | MB |";
    for (const JudgeText& text : texts_) table += fmt::format(" {} |", printable(text.name, 32));
    table += " prefill tokens/s | decode tokens/s |\n|---|--:|--:|--:|";
    for (std::size_t i = 0; i < texts_.size() + 2; ++i) table += "--:|";
    for (const JudgedModel& line : lines_) {
        table += fmt::format("\n| {} | {:.1f} M | {:.1f} M | {:.1f} |", line.name, static_cast<double>(line.parameters) / 1e6, static_cast<double>(line.active_parameters) / 1e6,
                             static_cast<double>(line.bytes) / 1e6);
        for (const double perplexity : line.perplexity) table += fmt::format(" {:.3f} |", perplexity);
        table += line.speed ? fmt::format(" {:.0f} | {:.1f} |", line.speed->prefill, line.speed->decode) : " | |";
    }
    table += "\n\nPerplexity on text that nothing was fitted to.";
    if (lines_.empty() || !lines_[0].speed) return table + "\n";
    const std::vector<tokenizer::TokenId> prompt(prompt_.begin(), prompt_.end());
    table += fmt::format(" What each writes after {}:\n\n", quoted(tokenizer_.decode(prompt, true)));
    for (const JudgedModel& line : lines_)
        if (line.speed) table += fmt::format("- {}: {}\n", line.name, quoted(line.speed->sample));
    return table;
}

io::Json SplitReport::json() const {
    io::Json report = io::Json::array();
    for (const JudgedModel& line : lines_) {
        io::Json by_text = io::Json::object();
        for (std::size_t t = 0; t < texts_.size(); ++t) by_text[texts_[t].name] = line.perplexity[t];
        io::Json one{{"model", line.name}, {"parameters", line.parameters}, {"active_parameters", line.active_parameters}, {"bytes", line.bytes}, {"ppl", by_text}};
        if (line.speed) {
            one["prefill_tokens_per_second"] = line.speed->prefill;
            one["decode_tokens_per_second"] = line.speed->decode;
            one["sample"] = line.speed->sample;
        }
        report.push_back(std::move(one));
    }
    return report;
}

void replace_text_file(const std::string& path, const std::string& text) {
    const std::string made = path + ".tmp";
    {
        io::File file = io::File::open_or_create(made);
        file.truncate(0);
        file.write_at(0, std::as_bytes(std::span(text)));
        file.sync();
    }
    std::filesystem::rename(made, path);
}

}  // namespace mixwright::verbs
