// Which files of a model directory make up its tokenizer.
#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <utility>

#include "error.h"
#include "io/file.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_json.h"

namespace mixwright::tokenizer {
namespace {

namespace fs = std::filesystem;
using io::Json;

constexpr std::size_t max_merges_bytes = 256u << 20;

// The file's object; null when the file is not there.
Json read_object_if_there(const fs::path& path, io::JsonLimits limits = {}) {
    if (!fs::is_regular_file(path)) return nullptr;
    Json json = io::read_json(path, limits);
    if (!json.is_object()) throw Error(ErrorCode::malformed, path.string() + ": expected an object");
    return json;
}

// A special token is written "</s>" or {"content": "</s>", ...}.
std::string token_text(const Json& json, const char* key) {
    const auto found = json.find(key);
    if (found == json.end()) return {};
    if (found->is_string()) return found->get<std::string>();
    if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) return (*found)["content"].get<std::string>();
    return {};
}

// GPT-2's form: vocab.json and merges.txt, no tokenizer.json yet.
Json from_vocab_and_merges(const fs::path& directory) {
    Json merges = Json::array();
    const std::string text = io::read_file(directory / "merges.txt", max_merges_bytes);
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        std::string line = text.substr(begin, end - begin);
        begin = end + 1;
        if (line.ends_with('\r')) line.pop_back();
        if (!line.empty() && !line.starts_with("#version")) merges.push_back(std::move(line));
    }
    const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
    Json added = Json::array();
    const Json extra = read_object_if_there(directory / "added_tokens.json");
    for (const auto& [content, id] : extra.items()) added.push_back({{"content", content}, {"id", id}, {"special", true}, {"normalized", false}});
    return {{"added_tokens", std::move(added)}, {"pre_tokenizer", byte_level}, {"decoder", byte_level},
            {"model", {{"type", "BPE"}, {"vocab", io::read_json(directory / "vocab.json", tokenizer_json_limits)}, {"merges", std::move(merges)}}}};
}

TokenId id_of(const Pipeline& pipeline, const std::string& token) {
    if (token.empty()) return no_token;
    const AddedToken* added = pipeline.added.find(token);
    return added != nullptr ? added->id : pipeline.model->vocabulary().find(token);
}

// Which tokens begin and end texts: tokenizer_config.json and special_tokens_map.json say it by name, the model's
// configurations by id.
void assign_roles(Pipeline& pipeline, const fs::path& directory, bool sentencepiece) {
    const std::array<std::pair<const char*, TokenId*>, 4> roles{{{"bos_token", &pipeline.roles.bos}, {"eos_token", &pipeline.roles.eos},
                                                                 {"pad_token", &pipeline.roles.pad}, {"unk_token", &pipeline.roles.unk}}};
    const Json config = read_object_if_there(directory / "tokenizer_config.json", {.bytes = 16u << 20});
    const Json map = read_object_if_there(directory / "special_tokens_map.json");
    for (const auto& [key, id] : roles)
        for (const Json* file : {&map, &config})  // the last one counts
            if (const TokenId found = id_of(pipeline, token_text(*file, key)); found != no_token) *id = found;
    for (const char* file : {"generation_config.json", "config.json"}) {
        const Json json = read_object_if_there(directory / file);
        for (const auto& [key, id] : roles) {
            const auto value = json.find(std::string(key) + "_id");
            if (*id != no_token || value == json.end()) continue;
            const Json& first = value->is_array() && !value->empty() ? value->front() : *value;
            if (first.is_number() && first != -1) *id = id_from_json(first, fmt::format("{}: {}_id", (directory / file).string(), key));
        }
    }
    // Without a post-processor the configuration alone says whether special tokens go around a text.
    if (!pipeline.post_processor.before.empty() || !pipeline.post_processor.behind.empty()) return;
    const auto wants = [&](const char* key) { return config.is_object() && config.contains(key) && config[key] == true; };
    const std::string kind = token_text(config, "tokenizer_class");
    const bool bos_unless_said = sentencepiece && (kind.starts_with("Llama") || kind.starts_with("Gemma"));
    if ((wants("add_bos_token") || (bos_unless_said && !config.contains("add_bos_token"))) && pipeline.roles.bos != no_token) pipeline.post_processor.before = {pipeline.roles.bos};
    if (wants("add_eos_token") && pipeline.roles.eos != no_token) pipeline.post_processor.behind = {pipeline.roles.eos};
}

}  // namespace

Tokenizer Tokenizer::load(const fs::path& path) {
    const bool directory = fs::is_directory(path);
    const fs::path folder = directory ? path : path.parent_path();
    const fs::path json = directory ? path / "tokenizer.json" : path, sentencepiece = directory ? path / "tokenizer.model" : path;
    Pipeline pipeline;
    bool from_sentencepiece = false;
    if (directory ? fs::is_regular_file(json) : path.extension() == ".json")
        pipeline = pipeline_from_json(io::read_json(json, tokenizer_json_limits), json.string());
    else if (directory ? fs::is_regular_file(sentencepiece) : path.extension() == ".model")
        pipeline = pipeline_from_sentencepiece(io::read_file(sentencepiece, max_sentencepiece_bytes), sentencepiece.string()), from_sentencepiece = true;
    else if (directory && fs::is_regular_file(path / "vocab.json") && fs::is_regular_file(path / "merges.txt"))
        pipeline = pipeline_from_json(from_vocab_and_merges(path), (path / "vocab.json").string());
    else if (!fs::exists(path))
        throw Error(ErrorCode::not_found, fmt::format("{}: there is no such file or directory", printable(path.string(), 1000)));
    else
        throw Error(ErrorCode::not_found, fmt::format("{}: there is no tokenizer", printable(path.string(), 1000)),
                    "expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt");
    assign_roles(pipeline, folder, from_sentencepiece);
    return Tokenizer(std::move(pipeline));
}

}  // namespace mixwright::tokenizer
