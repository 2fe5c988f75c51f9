#include "tokenizer/gguf_vocab.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/gguf_pre_tokenizers.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

using io::Json;
using Type = GgufVocab::TokenType;

constexpr const char* space_mark = "\xE2\x96\x81";

[[noreturn]] void malformed(std::string_view source, const std::string& what) {
    throw Error(ErrorCode::malformed, fmt::format("{}: tokenizer.ggml: {}", source, what));
}

void check(const GgufVocab& vocab, std::string_view source) {
    const std::size_t count = vocab.tokens.size();
    if (count == 0) malformed(source, "there are no tokens");
    if (count > max_vocabulary) malformed(source, fmt::format("too many tokens (got {}, limit {})", count, max_vocabulary));
    if (!vocab.scores.empty() && vocab.scores.size() != count)
        malformed(source, fmt::format("scores do not fit the tokens (got {}, expected {})", vocab.scores.size(), count));
    if (!vocab.token_types.empty() && vocab.token_types.size() != count)
        malformed(source, fmt::format("token types do not fit the tokens (got {}, expected {})", vocab.token_types.size(), count));
    for (std::size_t i = 0; i < count; ++i)
        if (valid_utf8_prefix(vocab.tokens[i]) != vocab.tokens[i].size()) malformed(source, fmt::format("token {} is not UTF-8", i));
    for (const auto& [name, id] : {std::pair{"bos", vocab.bos_id}, {"eos", vocab.eos_id}, {"unknown", vocab.unk_id}, {"padding", vocab.pad_id}})
        if (id && (*id < 0 || static_cast<std::uint64_t>(*id) >= count))
            malformed(source, fmt::format("{}_token_id is not a token (got {}, expected below {})", name, *id, count));
}

std::int32_t type_of(const GgufVocab& vocab, std::size_t id) {
    return vocab.token_types.empty() ? Type::normal : vocab.token_types[id];
}

// Converters fill the vocabulary up to the rows of the embedding with tokens called [PAD123], which no tokenizer has.
bool is_filler(const GgufVocab& vocab, std::size_t id) {
    return type_of(vocab, id) == Type::unused && vocab.tokens[id] == fmt::format("[PAD{}]", id);
}

Json vocabulary_object(const GgufVocab& vocab) {
    Json object = Json::object();
    for (std::size_t id = 0; id < vocab.tokens.size(); ++id)
        if (!is_filler(vocab, id)) object.emplace(vocab.tokens[id], id);  // of equal tokens the first stays
    return object;
}

Json added_tokens(const GgufVocab& vocab) {
    Json list = Json::array();
    for (std::size_t id = 0; id < vocab.tokens.size(); ++id) {
        const std::int32_t type = type_of(vocab, id);
        const bool special = type == Type::control || type == Type::unknown;
        if (!special && type != Type::user_defined) continue;
        list.push_back({{"id", id}, {"content", vocab.tokens[id]}, {"single_word", false}, {"lstrip", false}, {"rstrip", false},
                        {"normalized", false}, {"special", special}});
    }
    return list;
}

// SentencePiece keeps no merges: any two tokens that make up a third merge, the better the score of the third the sooner.
Json merges_from_scores(const GgufVocab& vocab, std::string_view source) {
    if (vocab.scores.empty()) malformed(source, "a vocabulary of kind \"llama\" needs scores");
    std::unordered_map<std::string_view, std::size_t> ids;
    for (std::size_t id = 0; id < vocab.tokens.size(); ++id) ids.emplace(vocab.tokens[id], id);
    struct Merge {
        std::size_t result, left, right;
    };
    std::vector<Merge> merges;
    for (std::size_t id = 0; id < vocab.tokens.size(); ++id) {
        const std::int32_t type = type_of(vocab, id);
        if (type != Type::normal && type != Type::user_defined && type != Type::unused) continue;
        if (std::isnan(vocab.scores[id])) malformed(source, fmt::format("the score of token {} is not a number", id));
        const std::string_view token = vocab.tokens[id];
        if (token.size() > StringFinder::max_length) malformed(source, fmt::format("token {} is too long (got {} bytes)", id, token.size()));
        for (std::size_t cut = 1; cut < token.size(); ++cut) {
            if ((static_cast<unsigned char>(token[cut]) & 0xC0) == 0x80) continue;
            const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
            if (left != ids.end() && right != ids.end()) merges.push_back({id, left->second, right->second});
        }
    }
    std::sort(merges.begin(), merges.end(), [&](const Merge& a, const Merge& b) {
        if (vocab.scores[a.result] != vocab.scores[b.result]) return vocab.scores[a.result] > vocab.scores[b.result];
        return std::tie(a.result, a.left, a.right) < std::tie(b.result, b.left, b.right);
    });
    Json list = Json::array();
    for (const Merge& merge : merges) list.push_back({vocab.tokens[merge.left], vocab.tokens[merge.right]});
    return list;
}

// GGUF writes "left right"; either side may hold spaces, but not both begin with one, so the cut is the first space
// behind the first character that leaves two tokens.
Json merges_from_text(const GgufVocab& vocab, const Json& vocabulary, std::string_view source) {
    Json list = Json::array();
    for (std::size_t i = 0; i < vocab.merges.size(); ++i) {
        const std::string& text = vocab.merges[i];
        bool found = false;
        for (auto cut = text.find(' ', 1); cut != text.npos && !found; cut = text.find(' ', cut + 1)) {
            std::string left = text.substr(0, cut), right = text.substr(cut + 1);
            if (!vocabulary.contains(left) || !vocabulary.contains(right)) continue;
            list.push_back({std::move(left), std::move(right)});
            found = true;
        }
        if (!found) malformed(source, fmt::format("merge {} does not name two tokens: \"{}\"", i, printable(text, 60)));
    }
    return list;
}

bool adds(const std::optional<bool>& said, const std::optional<std::int64_t>& id, bool by_default) {
    return said.value_or(by_default) && id.has_value();
}

Json post_processor(const GgufVocab& vocab, bool add_bos, bool add_eos) {
    if (!add_bos && !add_eos) return nullptr;
    Json special = Json::object(), single = Json::array(), pair = Json::array();
    const auto token = [&](std::int64_t id, int type) {
        const std::string& name = vocab.tokens[static_cast<std::size_t>(id)];
        special[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
        return Json{{"SpecialToken", {{"id", name}, {"type_id", type}}}};
    };
    const auto text = [&](const char* name, int type, Json& list) {
        if (add_bos) list.push_back(token(*vocab.bos_id, type));
        list.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
        if (add_eos) list.push_back(token(*vocab.eos_id, type));
    };
    text("A", 0, single);
    text("A", 0, pair);
    text("B", 1, pair);
    return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

Json replace(const char* from, const char* to) { return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}}; }

Json bpe_model(Json vocabulary, Json merges) {
    return {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr}, {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", false},
            {"vocab", std::move(vocabulary)}, {"merges", std::move(merges)}};
}

struct Parts {
    Json normalizer, pre_tokenizer, model, decoder;
    bool add_bos = false;
};

Parts byte_level_parts(const GgufVocab& vocab, std::string_view source) {
    GgufPreTokenizer pre = gguf_pre_tokenizer(vocab.pre, source);
    Json vocabulary = vocabulary_object(vocab);
    Json merges = merges_from_text(vocab, vocabulary, source);
    Parts parts{std::move(pre.normalizer), std::move(pre.pre_tokenizer), bpe_model(std::move(vocabulary), std::move(merges)),
                {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}, pre.add_bos};
    parts.model["ignore_merges"] = pre.ignore_merges;
    return parts;
}

// SentencePiece's form: spaces as marks, unknown characters as bytes.
Parts space_mark_parts(const GgufVocab& vocab, std::string_view source, bool add_space_prefix) {
    Json vocabulary = vocabulary_object(vocab);
    Json merges = vocab.merges.empty() ? merges_from_scores(vocab, source) : merges_from_text(vocab, vocabulary, source);
    Parts parts;
    parts.add_bos = true;
    parts.model = bpe_model(std::move(vocabulary), std::move(merges));
    parts.model["byte_fallback"] = true;
    parts.model["fuse_unk"] = true;
    if (vocab.unk_id) parts.model["unk_token"] = vocab.tokens[static_cast<std::size_t>(*vocab.unk_id)];
    Json steps = Json::array(), decoders = {replace(space_mark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
    if (add_space_prefix) {
        steps.push_back({{"type", "Prepend"}, {"prepend", space_mark}});
        decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    }
    steps.push_back(replace(" ", space_mark));
    parts.normalizer = {{"type", "Sequence"}, {"normalizers", std::move(steps)}};
    parts.decoder = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
    return parts;
}

Parts make_parts(const GgufVocab& vocab, std::string_view source) {
    if (vocab.model == "gpt2") return byte_level_parts(vocab, source);
    if (vocab.model == "llama") return space_mark_parts(vocab, source, vocab.add_space_prefix.value_or(true));
    if (vocab.model == "gemma4") {
        Parts parts = space_mark_parts(vocab, source, vocab.add_space_prefix.value_or(false));
        // Spaces are marks already when this runs: the text stays whole.
        parts.pre_tokenizer = {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}};
        return parts;
    }
    throw Error(ErrorCode::unsupported, fmt::format("{}: tokenizer.ggml.model: the kind \"{}\" is not supported", source, printable(vocab.model)),
                "use the model's Hugging Face directory, which brings its own tokenizer.json");
}

// metadata["tokenizer.ggml.<key>"] as T; `found` absent: left as it is.
template <class T, class Fits>
void read_list(const Json& metadata, const char* key, std::vector<T>& list, Fits fits, std::string_view source) {
    const auto found = metadata.find(std::string("tokenizer.ggml.") + key);
    if (found == metadata.end()) return;
    if (!found->is_array()) malformed(source, fmt::format("{}: expected an array (got {})", key, found->type_name()));
    list.reserve(found->size());
    for (const Json& value : *found) {
        if (!fits(value)) malformed(source, fmt::format("{}[{}]: wrong type (got {})", key, list.size(), value.type_name()));
        list.push_back(value.get<T>());
    }
}

template <class T>
std::optional<T> read_value(const Json& metadata, const char* key, std::string_view source) {
    const auto found = metadata.find(std::string("tokenizer.ggml.") + key);
    if (found == metadata.end()) return std::nullopt;
    const bool fits = std::is_same_v<T, bool> ? found->is_boolean() : std::is_integral_v<T> ? found->is_number_integer() : found->is_string();
    if (!fits) malformed(source, fmt::format("{}: wrong type (got {})", key, found->type_name()));
    return found->template get<T>();
}

}  // namespace

GgufVocab gguf_vocab_from_metadata(const Json& metadata, std::string_view source) {
    const auto is_text = [](const Json& value) { return value.is_string(); };
    const auto is_number = [](const Json& value) { return value.is_number(); };
    const auto is_small_integer = [](const Json& value) {
        return value.is_number_integer() && value.get<std::int64_t>() >= INT32_MIN && value.get<std::int64_t>() <= INT32_MAX;
    };
    GgufVocab vocab;
    vocab.model = read_value<std::string>(metadata, "model", source).value_or("");
    vocab.pre = read_value<std::string>(metadata, "pre", source).value_or("");
    read_list(metadata, "tokens", vocab.tokens, is_text, source);
    read_list(metadata, "scores", vocab.scores, is_number, source);
    read_list(metadata, "token_type", vocab.token_types, is_small_integer, source);
    read_list(metadata, "merges", vocab.merges, is_text, source);
    vocab.bos_id = read_value<std::int64_t>(metadata, "bos_token_id", source);
    vocab.eos_id = read_value<std::int64_t>(metadata, "eos_token_id", source);
    vocab.unk_id = read_value<std::int64_t>(metadata, "unknown_token_id", source);
    vocab.pad_id = read_value<std::int64_t>(metadata, "padding_token_id", source);
    vocab.add_bos = read_value<bool>(metadata, "add_bos_token", source);
    vocab.add_eos = read_value<bool>(metadata, "add_eos_token", source);
    vocab.add_space_prefix = read_value<bool>(metadata, "add_space_prefix", source);
    if (const auto found = metadata.find("tokenizer.chat_template"); found != metadata.end() && found->is_string())
        vocab.chat_template = found->get<std::string>();
    return vocab;
}

Json to_tokenizer_json(const GgufVocab& vocab, std::string_view source) {
    check(vocab, source);
    Parts parts = make_parts(vocab, source);
    return {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added_tokens(vocab)},
            {"normalizer", std::move(parts.normalizer)}, {"pre_tokenizer", std::move(parts.pre_tokenizer)},
            {"post_processor", post_processor(vocab, adds(vocab.add_bos, vocab.bos_id, parts.add_bos),
                                              adds(vocab.add_eos, vocab.eos_id, false))},
            {"decoder", std::move(parts.decoder)}, {"model", std::move(parts.model)}};
}

Json to_tokenizer_config(const GgufVocab& vocab, std::string_view source) {
    check(vocab, source);
    Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
    const auto role = [&](const char* name, const std::optional<std::int64_t>& id) {
        config[name] = id ? Json(vocab.tokens[static_cast<std::size_t>(*id)]) : Json();
    };
    role("bos_token", vocab.bos_id);
    role("eos_token", vocab.eos_id);
    role("unk_token", vocab.unk_id);
    role("pad_token", vocab.pad_id);
    return config;
}

Pipeline pipeline_from_gguf(const GgufVocab& vocab, std::string_view source) {
    Pipeline pipeline = pipeline_from_json(to_tokenizer_json(vocab, source), source);
    const auto role = [](const std::optional<std::int64_t>& id) { return id ? static_cast<TokenId>(*id) : no_token; };
    pipeline.roles = {role(vocab.bos_id), role(vocab.eos_id), role(vocab.pad_id), role(vocab.unk_id)};
    return pipeline;
}

}  // namespace mixwright::tokenizer
