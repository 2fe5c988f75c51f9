// `chat`: a conversation in the terminal, or through a pipe, a line a turn.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "arch/open_tokenizer.h"
#include "error.h"
#include "generate/engine.h"
#include "progress.h"
#include "verbs/line_input.h"
#include "verbs/model_options.h"
#include "verbs/sampling_options.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

constexpr const char* help =
    "/regen    another answer to the last question\n"
    "/clear    forget the conversation (the system prompt stays)\n"
    "/exit     leave (or Ctrl-D)\n"
    "A line that ends in \\ goes on in the next one. Ctrl-C ends the program.\n";

class Chat final : public Verb {
public:
    Chat() {
        options_.max_new_tokens = 1024;
        options_.sampling.temperature = 0.7;
        options_.sampling.top_p = 0.95;
        options_.sampling.min_p = 0.05;
    }

    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "directory, .gguf file or org/name in the hub cache")->required();
        app.add_option("--system-prompt", system_, "-sys TEXT: what the model is told before the conversation");
        declare_sampling(app, options_, stop_strings_);
        declare_quantization(app, model_options_);
    }

    void run(const CommonOptions& common) override {
        json_ = common.json;
        seed_ = common.seed;
        const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(model_);
        const auto chat_template = arch::open_chat_template(model_);
        if (!chat_template)
            throw Error(ErrorCode::unsupported, fmt::format("{}: the model has no chat template", model_),
                        "it was not made for conversations: continue a text with mixwright generate --raw");
        const model::Model model = load_model(common, arch::open_model(model_), model_options_);
        options_.stop_ids = stop_ids(tokenizer, model.files);
        generate::Session session(model, options_.context_size);

        LineInput input("> ");
        if (input.interactive()) fmt::print("{}\n/help lists the commands.\n", model_);
        clear();
        while (const std::optional<std::string> line = input.next()) {
            if (*line == "/exit") break;
            if (line->empty()) continue;
            if (*line == "/help") {
                fmt::print("{}", help);
            } else if (*line == "/clear") {
                clear();
            } else if (*line == "/regen") {
                if (messages_.empty() || messages_.back()["role"] != "assistant") {
                    warn("there is no answer to make again");
                    continue;
                }
                messages_.erase(messages_.size() - 1);
                answer(session, *chat_template, tokenizer);
            } else if (line->starts_with("/") && line->find(' ') == std::string::npos) {
                warn(fmt::format("{} is not a command; /help lists them", printable(*line)));
            } else {
                messages_.push_back({{"role", "user"}, {"content", *line}});
                answer(session, *chat_template, tokenizer);
            }
        }
        if (input.interactive()) fmt::print("\n");
    }

private:
    void clear() {
        messages_ = tokenizer::Conversation::array();
        if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
    }

    // Answers the last message. When that does not work, the message is taken back and the conversation goes on.
    void answer(generate::Session& session, const tokenizer::ChatTemplate& chat_template, const tokenizer::Tokenizer& tokenizer) {
        try {
            const std::vector<tokenizer::TokenId> ids =
                tokenizer.encode(chat_template.render(messages_, {.add_generation_prompt = true}), {.add_special_tokens = false});
            const std::vector<std::int64_t> prompt(ids.begin(), ids.end());
            options_.sampling.seed = seed_++;  // so that /regen gives another answer, and a run with one seed the same ones
            TextStream stream(tokenizer, stop_strings_, [this](const std::string& piece) {
                if (json_) return;
                fmt::print("{}", piece);
                std::fflush(stdout);
            });
            const generate::GenerateResult result = session.generate(prompt, options_, [&](std::int64_t id) { return stream.push(id); });
            const std::string text = stream.finish();
            messages_.push_back({{"role", "assistant"}, {"content", text}});
            if (json_) {
                const io::Json json{{"text", text}, {"tokens", result.ids.size()}, {"prompt_tokens", prompt.size()}, {"reused_tokens", result.reused},
                                    {"finish_reason", result.stopped ? "stop" : "length"}};
                fmt::print("{}\n", json.dump(-1, ' ', false, io::Json::error_handler_t::replace));
            } else {
                fmt::print("\n");
            }
            std::fflush(stdout);
        } catch (const Error& e) {
            if (e.code() != ErrorCode::failed && e.code() != ErrorCode::mismatch) throw;
            warn(e.what());
            messages_.erase(messages_.size() - 1);
        }
    }

    std::string model_, system_;
    ModelOptions model_options_;
    std::vector<std::string> stop_strings_;
    generate::GenerateOptions options_;
    tokenizer::Conversation messages_;
    std::uint64_t seed_ = 0;
    bool json_ = false;
};

}  // namespace

std::unique_ptr<Verb> make_chat() { return std::make_unique<Chat>(); }

}  // namespace mixwright::verbs
