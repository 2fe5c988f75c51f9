// `eval`: how good a model is, as numbers.
#include <fmt/format.h>

#include <filesystem>

#include "arch/open_tokenizer.h"
#include "data/conversations.h"
#include "data/packing.h"
#include "error.h"
#include "evaluate/perplexity.h"
#include "verbs/model_options.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

struct Task {
    std::string name;  // "ppl:wiki.txt"
    std::string file;
};

Task parse_task(const std::string& text) {
    const auto colon = text.find(':');
    const std::string kind = text.substr(0, colon);
    if (colon == std::string::npos || colon + 1 == text.size())
        throw Error(ErrorCode::usage, fmt::format("--task {}: expected KIND:FILE", printable(text)), "for example --task ppl:wiki.txt");
    if (kind != "ppl")
        throw Error(ErrorCode::usage, fmt::format("--task {}: unknown kind \"{}\"", printable(text), printable(kind)), "known: ppl:FILE (perplexity)");
    return {text, text.substr(colon + 1)};
}

class Eval final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "directory, .gguf file or org/name in the hub cache")->required();
        app.add_option("--task", tasks_, "ppl:FILE, perplexity on a text file, .jsonl or folder (repeat for several)")->required();
        app.add_option("--ctx", options_.context, "tokens of a window (default 512)")->check(CLI::Range(2, 1 << 20));
        app.add_option("--limit", options_.max_tokens, "look at this many tokens of each text (default: all)")->check(CLI::Range(2, 1 << 30));
        declare_quantization(app, model_options_);
        declare_streaming(app, model_options_);
    }

    void run(const CommonOptions& common) override {
        std::vector<Task> tasks;
        for (const std::string& text : tasks_) tasks.push_back(parse_task(text));
        const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(model_);
        const data::ChatRenderer render_chat = data::chat_renderer_of(model_);
        std::vector<data::TokenStream> texts;
        for (const Task& task : tasks) {
            const auto limit = static_cast<std::size_t>(options_.max_tokens);
            texts.push_back(data::tokenize(data::read_documents(task.file, render_chat), tokenizer, tokenizer.eos_id(), limit));
        }

        arch::OpenModel files = arch::open_model(model_);
        const model::Placement placement = placement_for(common, files);
        std::optional<std::int64_t> bos;
        if (tokenizer.adds_bos()) bos = tokenizer.bos_id();

        std::vector<evaluate::Perplexity> results;
        if (model_options_.stream_layers) {
            for (const data::TokenStream& text : texts) results.push_back(evaluate::perplexity_streamed(files, placement, text, bos, options_));
        } else {
            const model::Model model = load_model(common, std::move(files), model_options_);
            for (const data::TokenStream& text : texts) results.push_back(evaluate::perplexity(model, text, bos, options_));
        }
        print(common, tasks, results);
    }

private:
    static void print(const CommonOptions& common, const std::vector<Task>& tasks, const std::vector<evaluate::Perplexity>& results) {
        io::Json json = io::Json::object();
        if (!common.json) fmt::print("{:<48} {:>10} {:>9} {:>9} {:>10}\n", "task", "perplexity", "nll", "+/-", "tokens");
        for (std::size_t i = 0; i < tasks.size(); ++i) {
            const evaluate::Perplexity& r = results[i];
            json[tasks[i].name] = {{"ppl", r.perplexity()}, {"nll", r.nll}, {"stderr", r.stderr_nll}, {"tokens", r.tokens}};
            if (!common.json)
                fmt::print("{:<48} {:>10.3f} {:>9.4f} {:>9.4f} {:>10}\n", printable(tasks[i].name, 48), r.perplexity(), r.nll, r.stderr_nll, r.tokens);
        }
        if (common.json) fmt::print("{}\n", io::Json{{"tasks", json}}.dump());
    }

    std::string model_;
    std::vector<std::string> tasks_;
    evaluate::PerplexityOptions options_;
    ModelOptions model_options_;
};

}  // namespace

std::unique_ptr<Verb> make_eval() { return std::make_unique<Eval>(); }

}  // namespace mixwright::verbs
