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
        app.add_flag("--no-bos", no_bos_, "leave out the special tokens that go around a text");
        app.add_flag("--no-parse-special", no_parse_special_, "special tokens written in the text are plain text");
        app.add_flag("--skip-special", skip_special_, "with --decode: leave special tokens out of the text");
    }

    void run(const CommonOptions&) override {
        const Tokenizer tokenizer = arch::open_tokenizer(model_);
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
};

}  // namespace

std::unique_ptr<Verb> make_tokenize() { return std::make_unique<Tokenize>(); }

}  // namespace mixwright::verbs
