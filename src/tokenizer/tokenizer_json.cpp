#include "tokenizer/tokenizer_json.h"

#include <string>
#include <utility>
#include <vector>

#include "tokenizer/bpe.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/unigram.h"
#include "tokenizer/word_models.h"

namespace mixwright::tokenizer {
namespace {

using io::Json;

const Json null_json;

const Json& part(const Json& json, const char* key) {
    const auto found = json.find(key);
    return found == json.end() ? null_json : *found;
}

// Merges are written "left right" or ["left", "right"].
std::vector<std::pair<std::string, std::string>> read_merges(const Json& model, const std::string& where) {
    const Json& list = array_field(model, "merges", where);
    std::vector<std::pair<std::string, std::string>> merges;
    merges.reserve(list.size());
    for (const Json& merge : list) {
        if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
            merges.emplace_back(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
            continue;
        }
        if (merge.is_string()) {
            const auto& text = merge.get_ref<const std::string&>();
            const auto space = text.find(' ');
            if (space != text.npos && text.find(' ', space + 1) == text.npos) {
                merges.emplace_back(text.substr(0, space), text.substr(space + 1));
                continue;
            }
            if (text.starts_with("#version")) continue;
        }
        throw Error(ErrorCode::malformed, fmt::format("{}.merges[{}]: expected \"left right\" or [\"left\", \"right\"] (got {})", where,
                                                      merges.size(), printable(merge.dump(), 60)));
    }
    return merges;
}

BpeOptions bpe_options(const Json& model, const std::string& where) {
    if (field_or(model, "dropout", 0.0, where) != 0.0)
        throw Error(ErrorCode::unsupported, where + ".dropout: random tokenization is for training a tokenizer's model only",
                    "set it to null");
    BpeOptions options;
    options.unknown_token = field_or<std::string>(model, "unk_token", "", where);
    options.continuing_subword_prefix = field_or<std::string>(model, "continuing_subword_prefix", "", where);
    options.end_of_word_suffix = field_or<std::string>(model, "end_of_word_suffix", "", where);
    options.fuse_unknown = field_or(model, "fuse_unk", false, where);
    options.byte_fallback = field_or(model, "byte_fallback", false, where);
    options.ignore_merges = field_or(model, "ignore_merges", false, where);
    return options;
}

// Files written before the model had a "type" are told apart by their fields.
std::string model_kind(const Json& model, const std::string& where) {
    if (model.is_object() && model.contains("type")) return kind_of(model, where);
    if (model.is_object() && model.contains("merges")) return "BPE";
    if (model.is_object() && model.contains("vocab") && model["vocab"].is_array()) return "Unigram";
    throw Error(ErrorCode::malformed, where + ": expected an object with a \"type\"");
}

}  // namespace

Pipeline pipeline_from_json(const Json& json, std::string_view source) {
    const std::string file(source);
    if (!json.is_object()) throw Error(ErrorCode::malformed, file + ": expected an object");
    Pipeline result;
    const Json& model = part(json, "model");
    const std::string where = file + ": model";
    const std::string kind = model_kind(model, where);

    BpeOptions options;
    bool raw_bytes = false;
    if (kind == "BPE") {
        options = bpe_options(model, where);
        raw_bytes = !options.byte_fallback && options.continuing_subword_prefix.empty() && options.end_of_word_suffix.empty();
    }
    result.pre_tokenizer = PreTokenizer::from_json(part(json, "pre_tokenizer"), file + ": pre_tokenizer", raw_bytes);
    options.raw_bytes = result.pre_tokenizer.ends_in_bytes();

    if (kind == "BPE")
        result.model = std::make_unique<Bpe>(Vocabulary::from_json(part(model, "vocab"), where + ".vocab"), read_merges(model, where),
                                             std::move(options), where);
    else if (kind == "Unigram")
        result.model = std::make_unique<Unigram>(unigram_from_json(model, where));
    else if (kind == "WordLevel")
        result.model = std::make_unique<WordLevel>(word_level_from_json(model, where));
    else if (kind == "WordPiece")
        result.model = std::make_unique<WordPiece>(word_piece_from_json(model, where));
    else
        refuse_kind(where, kind);

    result.normalizer = make_normalizer(part(json, "normalizer"), file + ": normalizer");
    result.post_processor = PostProcessor::from_json(part(json, "post_processor"), file + ": post_processor");
    result.decoder = make_decoder(part(json, "decoder"), file + ": decoder");
    // "truncation" and "padding" are left aside: they shape batches for training, not the ids of a text.
    const Json& added = part(json, "added_tokens");
    if (!added.is_null() && !added.is_array()) throw Error(ErrorCode::malformed, file + ": added_tokens: expected an array");
    for (std::size_t i = 0; i < added.size(); ++i)
        result.added.add(added_token_from_json(added[i], fmt::format("{}: added_tokens[{}]", file, i)), result.model->vocabulary());
    result.added.prepare(result.normalizer);
    result.roles.unk = result.model->unknown_id();
    return result;
}

}  // namespace mixwright::tokenizer
