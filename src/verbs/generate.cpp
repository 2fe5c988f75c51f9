// `generate`: text after a prompt, streamed as it comes; or after many prompts, several at a time.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <vector>

#include "arch/open_tokenizer.h"
#include "error.h"
#include "generate/batch.h"
#include "generate/engine.h"
#include "generate/routing_trace.h"
#include "io/file.h"
#include "io/json.h"
#include "progress.h"
#include "tokenizer/chat_template.h"
#include "verbs/model_options.h"
#include "verbs/sampling_options.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

constexpr std::size_t prompt_file_limit = 64u << 20;

class Generate final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "directory, .gguf file or org/name in the hub cache")->required();
        auto* text = app.add_option("-p,--prompt", prompt_, "the prompt");
        auto* file = app.add_option("-f,--file", file_, "a file with the prompt (- for standard input)");
        text->excludes(file);
        app.add_option("--batch", batch_, "a file with a prompt a line, or .jsonl with `prompt`: all are continued, a JSON line each")->excludes(text)->excludes(file);
        app.add_option("--parallel", parallel_, "with --batch: sequences at a time")->capture_default_str();
        declare_sampling(app, options_, stop_strings_);
        declare_quantization(app, model_options_);
        declare_streaming(app, model_options_);
        app.add_flag("--raw", raw_, "continue the prompt as it stands instead of answering it through the chat template");
        app.add_option("--trace", trace_, "write the experts of every token to this file, a JSON line each")->excludes("--batch");
    }

    void run(const CommonOptions& common) override {
        options_.sampling.seed = common.seed;
        const std::vector<std::string> prompts = batch_.empty() ? std::vector{read_prompt()} : read_batch();
        const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(model_);
        arch::OpenModel files = arch::open_model(model_);
        if (!trace_.empty() && !files.spec.is_moe())
            throw Error(ErrorCode::usage, fmt::format("--trace: {} has no experts", model_), "it traces the routing of a Mixture-of-Experts model");
        const model::Model model = load_model(common, std::move(files), model_options_);
        options_.stop_ids = stop_ids(tokenizer, model.files);
        if (!batch_.empty()) return run_batch(tokenizer, model, prompts);
        const std::vector<std::int64_t> ids = encode_prompt(tokenizer, prompts.front());

        TextStream stream(tokenizer, stop_strings_, [&](const std::string& piece) {
            if (common.json) return;
            fmt::print("{}", piece);
            std::fflush(stdout);
        });
        generate::RoutingTrace trace(model.decoder.spec());
        const generate::GenerateResult result = generate::generate(
            model, ids, options_, [&](std::int64_t id) { return stream.push(id); }, trace_.empty() ? nullptr : &trace);
        const std::string text = stream.finish();
        if (!common.json) fmt::print("\n");

        if (!trace_.empty()) write_trace(trace, ids, result.ids, tokenizer);
        report(common, text, ids.size(), result);
    }

private:
    std::vector<std::string> read_batch() const {
        std::vector<std::string> prompts;
        std::istringstream lines(io::read_file(batch_, prompt_file_limit));
        std::size_t number = 0;
        for (std::string line; std::getline(lines, line);) {
            ++number;
            if (line.empty()) continue;
            if (!batch_.ends_with(".jsonl")) {
                prompts.push_back(line);
                continue;
            }
            const io::Json object = io::parse_json(line, fmt::format("{}, line {}", batch_, number));
            const auto prompt = object.is_object() ? object.find("prompt") : object.end();
            if (prompt == object.end() || !prompt->is_string())
                throw Error(ErrorCode::malformed, fmt::format("{}, line {}: no \"prompt\" with a text", batch_, number), "give an object such as {\"prompt\": \"...\"} a line");
            prompts.push_back(prompt->get<std::string>());
        }
        if (prompts.empty()) throw Error(ErrorCode::usage, fmt::format("{}: no prompt", batch_), "write one a line");
        return prompts;
    }

    void run_batch(const tokenizer::Tokenizer& tokenizer, const model::Model& model, const std::vector<std::string>& prompts) {
        std::vector<std::vector<std::int64_t>> ids;
        std::vector<std::unique_ptr<TextStream>> streams;
        for (const std::string& prompt : prompts) {
            ids.push_back(encode_prompt(tokenizer, prompt));
            streams.push_back(std::make_unique<TextStream>(tokenizer, stop_strings_, [](const std::string&) {}));
        }
        const auto results = generate::generate_together(model, ids, options_, parallel_, [&](std::size_t i, std::int64_t id) { return streams[i]->push(id); });
        std::size_t generated = 0;
        for (std::size_t i = 0; i < results.size(); ++i) {
            generated += results[i].ids.size();
            const io::Json line{{"prompt", prompts[i]}, {"text", streams[i]->finish()}, {"ids", results[i].ids}, {"prompt_tokens", ids[i].size()},
                                {"finish_reason", results[i].stopped ? "stop" : "length"}};
            fmt::print("{}\n", line.dump(-1, ' ', false, io::Json::error_handler_t::replace));
        }
        const double seconds = results.front().prompt_seconds + results.front().decode_seconds;
        info(fmt::format("{} prompts, {} tokens generated in {:.1f} s: {:.1f} tokens/s", prompts.size(), generated, seconds, static_cast<double>(generated) / seconds));
    }

    std::string read_prompt() const {
        if (!prompt_.empty()) return prompt_;
        if (file_.empty()) throw Error(ErrorCode::usage, "no prompt", "give one with -p TEXT or -f FILE");
        if (file_ != "-") return io::read_file(file_, prompt_file_limit);
        return {std::istreambuf_iterator<char>(std::cin), {}};
    }

    std::vector<std::int64_t> encode_prompt(const tokenizer::Tokenizer& tokenizer, const std::string& prompt) const {
        const auto chat = raw_ ? std::nullopt : arch::open_chat_template(model_);
        std::vector<tokenizer::TokenId> ids;
        if (chat) {
            const tokenizer::Conversation messages = {{{"role", "user"}, {"content", prompt}}};
            ids = tokenizer.encode(chat->render(messages, {.add_generation_prompt = true}), {.add_special_tokens = false});
        } else {
            ids = tokenizer.encode(prompt);
        }
        return {ids.begin(), ids.end()};
    }

    void write_trace(const generate::RoutingTrace& trace, const std::vector<std::int64_t>& prompt, const std::vector<std::int64_t>& generated,
                     const tokenizer::Tokenizer& tokenizer) const {
        std::ofstream out(trace_);
        std::vector<std::int64_t> all = prompt;
        all.insert(all.end(), generated.begin(), generated.end());
        for (std::size_t position = 0; position < trace.num_tokens(); ++position) {
            io::Json line = trace.token(position);
            line["position"] = position;
            line["id"] = all[position];
            line["token"] = tokenizer.id_to_token(static_cast<tokenizer::TokenId>(all[position]));
            line["generated"] = position >= prompt.size();
            out << line.dump(-1, ' ', false, io::Json::error_handler_t::replace) << "\n";
        }
        if (!out.flush()) throw Error(ErrorCode::io, fmt::format("{}: cannot write", trace_));
    }

    void report(const CommonOptions& common, const std::string& text, std::size_t prompt_tokens, const generate::GenerateResult& result) const {
        const auto rate = [](std::size_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0.0; };
        const double prompt_rate = rate(prompt_tokens, result.prompt_seconds), decode_rate = rate(result.ids.size(), result.decode_seconds);
        if (common.json) {
            const io::Json json{{"text", text}, {"ids", result.ids}, {"prompt_tokens", prompt_tokens}, {"tokens", result.ids.size()},
                                {"finish_reason", result.stopped ? "stop" : "length"},
                                {"prefill_tokens_per_second", prompt_rate}, {"decode_tokens_per_second", decode_rate}};
            fmt::print("{}\n", json.dump(-1, ' ', false, io::Json::error_handler_t::replace));
        } else {
            info(fmt::format("{} prompt tokens at {:.0f} tokens/s, {} generated at {:.1f} tokens/s", prompt_tokens, prompt_rate,
                             result.ids.size(), decode_rate));
        }
    }

    std::string model_, prompt_, file_, batch_, trace_;
    std::int64_t parallel_ = 8;
    std::vector<std::string> stop_strings_;
    ModelOptions model_options_;
    bool raw_ = false;
    generate::GenerateOptions options_;
};

}  // namespace

std::unique_ptr<Verb> make_generate() { return std::make_unique<Generate>(); }

}  // namespace mixwright::verbs
