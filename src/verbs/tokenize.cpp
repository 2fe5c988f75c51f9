// mixwright tokenize: the ids of a text file's lines, or the text of lines of ids.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arch/open_tokenizer.h"
#include "error.h"
#include "io/file.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

using io::Json;
using tokenizer::TokenId;
using tokenizer::Tokenizer;

constexpr std::size_t max_input_bytes = std::size_t{4} << 30;

class Tokenize final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "a model, a tokenizer.json or a tokenizer.model")->required();
        app.add_option("-f,--file", file_, "the lines to work on")->required();
        app.add_flag("--decode", decode_, "lines are arrays of ids; prints their text as a JSON string");
        app.add_flag("--jsonl", jsonl_, "lines are JSON strings (which can hold line breaks), or objects with a \"text\"");
        app.add_flag("--chat", chat_, "lines are conversations: an array of messages, or an object with \"messages\", \"tools\" and variables of the template")
            ->excludes("--decode");
        app.add_flag("--no-generation-prompt", no_prompt_, "with --chat: stop after the last message");
        app.add_flag("--no-bos", no_bos_, "leave out the special tokens that go around a text");
        app.add_flag("--no-parse-special", no_parse_special_, "special tokens written in the text are plain text");
        app.add_flag("--skip-special", skip_special_, "with --decode: leave special tokens out of the text");
    }

    void run(const CommonOptions&) override {
        const Tokenizer tokenizer = arch::open_tokenizer(model_);
        if (chat_ && !(template_ = arch::open_chat_template(model_)))
            throw Error(ErrorCode::not_found, fmt::format("{}: there is no chat template", model_), "leave out --chat");
        const std::string text = io::read_file(file_, max_input_bytes);
        std::string out;
        std::size_t number = 0;
        for (std::size_t begin = 0; begin < text.size();) {
            const std::size_t end = std::min(text.find('\n', begin), text.size());
            const std::string_view line = std::string_view(text).substr(begin, end - begin);
            begin = end + 1;
            out += answer(tokenizer, line, fmt::format("{}: line {}", file_, ++number));
            out += '\n';
            if (out.size() >= flush_bytes) flush(out);
        }
        flush(out);
    }

private:
    static constexpr std::size_t flush_bytes = 1u << 20;

    static void flush(std::string& out) {
        if (std::fwrite(out.data(), 1, out.size(), stdout) != out.size()) throw Error(ErrorCode::io, "cannot write to standard output");
        out.clear();
    }

    std::string answer(const Tokenizer& tokenizer, std::string_view line, const std::string& where) const {
        if (decode_) return on_one_line(Json(tokenizer.decode(parse_ids(line, where), skip_special_)).dump());
        if (chat_)  // the template writes the special tokens itself
            return fmt::format("[{}]", fmt::join(tokenizer.encode(render(line, where), {.add_special_tokens = false}), ","));
        const std::vector<TokenId> ids =
            tokenizer.encode(jsonl_ ? parse_text(line, where) : std::string(line),
                             {.add_special_tokens = !no_bos_, .parse_special = !no_parse_special_});
        return fmt::format("[{}]", fmt::join(ids, ","));
    }

    // JSON leaves three characters as they are that some readers take for the end of a line.
    static std::string on_one_line(std::string json) {
        for (const auto& [character, escape] : {std::pair{"\xC2\x85", "\\u0085"}, {"\xE2\x80\xA8", "\\u2028"}, {"\xE2\x80\xA9", "\\u2029"}})
            for (auto at = json.find(character); at != json.npos; at = json.find(character, at)) json.replace(at, std::strlen(character), escape);
        return json;
    }

    std::string render(std::string_view line, const std::string& where) const {
        io::parse_json(line, where, {.bytes = max_input_bytes});  // depth and syntax; the order of keys matters, so again:
        tokenizer::Conversation request = tokenizer::Conversation::parse(line);
        if (request.is_array()) request = {{"messages", std::move(request)}};
        if (!request.is_object() || !request.contains("messages"))
            throw Error(ErrorCode::malformed, where + ": expected an array of messages or an object with \"messages\"");
        tokenizer::ChatOptions options;
        options.add_generation_prompt = !no_prompt_;
        if (request.contains("tools")) options.tools = request["tools"];
        if (request.contains("documents")) options.documents = request["documents"];
        options.variables = request;
        return template_->render(request["messages"], options);
    }

    static std::vector<TokenId> parse_ids(std::string_view line, const std::string& where) {
        const Json json = io::parse_json(line, where, {.bytes = max_input_bytes});
        if (!json.is_array()) throw Error(ErrorCode::malformed, where + ": expected an array of ids");
        std::vector<TokenId> ids;
        for (const Json& id : json) ids.push_back(tokenizer::id_from_json(id, where));
        return ids;
    }

    static std::string parse_text(std::string_view line, const std::string& where) {
        const Json json = io::parse_json(line, where, {.bytes = max_input_bytes});
        const Json& text = json.is_object() && json.contains("text") ? json["text"] : json;
        if (!text.is_string()) throw Error(ErrorCode::malformed, where + ": expected a string or an object with a \"text\"");
        return text.get<std::string>();
    }

    std::string model_, file_;
    bool decode_ = false, jsonl_ = false, no_bos_ = false, no_parse_special_ = false, skip_special_ = false;
    bool chat_ = false, no_prompt_ = false;
    std::optional<tokenizer::ChatTemplate> template_;
};

}  // namespace

std::unique_ptr<Verb> make_tokenize() { return std::make_unique<Tokenize>(); }

}  // namespace mixwright::verbs
