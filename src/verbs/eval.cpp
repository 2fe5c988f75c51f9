// `eval`: how good a model is, as numbers.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arch/open_tokenizer.h"
#include "data/conversations.h"
#include "data/packing.h"
#include "error.h"
#include "evaluate/exact_match.h"
#include "evaluate/multiple_choice.h"
#include "evaluate/perplexity.h"
#include "nearest.h"
#include "verbs/model_options.h"
#include "verbs/sampling_options.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

constexpr std::array<std::string_view, 3> kinds{"ppl", "mc", "gen"};

// What a task came to.
struct Metric {
    std::string name;
    double value = 0, error = 0;
};
struct Result {
    std::vector<Metric> metrics;
    std::int64_t count = 0;
    std::string unit;  // "tokens", "questions"
    io::Json json;
};

// A task whose data have been read: that comes first, so that a mistake in the last file is told before a large model is loaded.
struct Task {
    std::string name;  // "ppl:wiki.txt"
    data::TokenStream text;
    std::vector<evaluate::ChoiceQuestion> choices;
    std::vector<evaluate::OpenQuestion> questions;
};

class Eval final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "directory, .gguf file or org/name in the hub cache")->required();
        app.add_option("--task", tasks_,
                       "ppl:FILE, perplexity on a text file, .jsonl or folder; mc:FILE.jsonl, accuracy on multiple choice; gen:FILE.jsonl, exact match of generated answers "
                       "(repeat for several)")
            ->required();
        app.add_option("--ctx", perplexity_.context, "ppl: tokens of a window (default 512)")->check(CLI::Range(2, 1 << 20));
        app.add_option("--limit", limit_, "look at this many tokens of each text, this many questions of each file (default: all)")->check(CLI::Range(1, 1 << 30));
        app.add_option("-n,--n-predict", exact_match_.max_new_tokens, "gen: tokens of an answer at most")->check(CLI::Range(1, 1 << 20))->capture_default_str();
        app.add_option("--parallel", exact_match_.parallel, "gen: questions answered together")->check(CLI::Range(1, 1024))->capture_default_str();
        declare_quantization(app, model_options_);
        declare_streaming(app, model_options_);
    }

    void run(const CommonOptions& common) override {
        perplexity_.max_tokens = limit_;
        const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(model_);
        const std::vector<Task> tasks = read_tasks(tokenizer);
        arch::OpenModel files = arch::open_model(model_);
        const model::Placement placement = placement_for(common, files);
        exact_match_.stop_ids = stop_ids(tokenizer, files);
        std::optional<std::int64_t> bos;
        if (tokenizer.adds_bos()) bos = tokenizer.bos_id();

        // Perplexity runs whole texts through one layer after another; with questions a streamed model is read once a step.
        const auto streamed = [&](const Task& task) { return model_options_.stream_layers && !task.text.ids.empty(); };
        std::vector<Result> results(tasks.size());
        for (std::size_t i = 0; i < tasks.size(); ++i)
            if (streamed(tasks[i])) results[i] = result_of(evaluate::perplexity_streamed(files, placement, tasks[i].text, bos, perplexity_));
        if (!std::ranges::all_of(tasks, streamed)) {
            const model::Model model = load_model(common, std::move(files), model_options_);
            for (std::size_t i = 0; i < tasks.size(); ++i) {
                const Task& task = tasks[i];
                if (streamed(task)) continue;
                results[i] = !task.choices.empty()     ? result_of(evaluate::multiple_choice(model, tokenizer, task.choices))
                             : !task.questions.empty() ? result_of(evaluate::exact_match(model, tokenizer, task.questions, exact_match_))
                                                       : result_of(evaluate::perplexity(model, task.text, bos, perplexity_));
            }
        }
        print(common, tasks, results);
    }

private:
    std::vector<Task> read_tasks(const tokenizer::Tokenizer& tokenizer) const {
        const data::ChatRenderer render_chat = data::chat_renderer_of(model_);
        std::vector<Task> tasks;
        for (const std::string& name : tasks_) {
            const auto colon = name.find(':');
            const std::string kind = name.substr(0, colon), file = colon == std::string::npos ? "" : name.substr(colon + 1);
            if (file.empty()) throw Error(ErrorCode::usage, fmt::format("--task {}: expected KIND:FILE", printable(name)), "for example --task ppl:wiki.txt");
            Task task{.name = name};
            if (kind == "ppl")
                task.text = data::tokenize(data::read_documents(file, render_chat), tokenizer, tokenizer.eos_id(), static_cast<std::size_t>(limit_));
            else if (kind == "mc")
                task.choices = evaluate::read_choice_questions(file, limit_);
            else if (kind == "gen")
                task.questions = evaluate::read_open_questions(file, limit_, render_chat);
            else
                throw Error(ErrorCode::usage, fmt::format("--task {}: unknown kind \"{}\"", printable(name), printable(kind)),
                            did_you_mean(kind, kinds) + "known: ppl:FILE (perplexity), mc:FILE.jsonl (multiple choice), gen:FILE.jsonl (exact match)");
            tasks.push_back(std::move(task));
        }
        return tasks;
    }

    static Result result_of(const evaluate::Perplexity& p) {
        return {.metrics = {{"perplexity", p.perplexity(), p.perplexity() * p.stderr_nll}, {"nll", p.nll, p.stderr_nll}},
                .count = p.tokens, .unit = "tokens", .json = {{"ppl", p.perplexity()}, {"nll", p.nll}, {"stderr", p.stderr_nll}, {"tokens", p.tokens}}};
    }
    static Result result_of(const evaluate::ChoiceScores& s) {
        return {.metrics = {{"acc", s.by_sum.share(), s.by_sum.stderr_share()}, {"acc_norm", s.by_byte.share(), s.by_byte.stderr_share()}},
                .count = s.by_sum.asked, .unit = "questions",
                .json = {{"acc", s.by_sum.share()}, {"acc_norm", s.by_byte.share()}, {"stderr", s.by_sum.stderr_share()}, {"questions", s.by_sum.asked}}};
    }
    static Result result_of(const evaluate::Score& s) {
        return {.metrics = {{"exact_match", s.share(), s.stderr_share()}}, .count = s.asked, .unit = "questions",
                .json = {{"exact_match", s.share()}, {"stderr", s.stderr_share()}, {"questions", s.asked}}};
    }

    static void print(const CommonOptions& common, const std::vector<Task>& tasks, const std::vector<Result>& results) {
        if (common.json) {
            io::Json json = io::Json::object();
            for (std::size_t i = 0; i < tasks.size(); ++i) json[tasks[i].name] = results[i].json;
            fmt::print("{}\n", io::Json{{"tasks", json}}.dump());
            return;
        }
        fmt::print("{:<48} {:<12} {:>10} {:>9} {:>16}\n", "task", "metric", "value", "+/-", "of");
        for (std::size_t i = 0; i < tasks.size(); ++i)
            for (const Metric& metric : results[i].metrics)
                fmt::print("{:<48} {:<12} {:>10.4f} {:>9.4f} {:>16}\n", printable(tasks[i].name, 48), metric.name, metric.value, metric.error,
                           fmt::format("{} {}", results[i].count, results[i].unit));
    }

    std::string model_;
    std::vector<std::string> tasks_;
    std::int64_t limit_ = 0;
    evaluate::PerplexityOptions perplexity_;
    evaluate::ExactMatchOptions exact_match_;
    ModelOptions model_options_;
};

}  // namespace

std::unique_ptr<Verb> make_eval() { return std::make_unique<Eval>(); }

}  // namespace mixwright::verbs
