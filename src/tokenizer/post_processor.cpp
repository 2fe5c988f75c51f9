#include "tokenizer/post_processor.h"

#include <utility>

#include "tokenizer/json_fields.h"

namespace mixwright::tokenizer {
namespace {

using io::Json;

// ["[CLS]", 101]
TokenId id_of_pair(const Json& json, const char* key, const std::string& where) {
    const Json& pair = array_field(json, key, where);
    if (pair.size() != 2) throw Error(ErrorCode::malformed, fmt::format("{}.{}: expected [token, id]", where, key));
    return id_from_json(pair[1], where + '.' + key);
}

PostProcessor from_template(const Json& json, const std::string& where) {
    PostProcessor result;
    bool text_seen = false;
    for (const Json& part : array_field(json, "single", where)) {
        if (!part.is_object() || part.size() != 1 || !part.begin()->is_object())
            throw Error(ErrorCode::malformed, where + ".single: expected objects of one key");
        const Json& body = *part.begin();
        if (part.begin().key() == "Sequence") {
            if (std::exchange(text_seen, true))
                throw Error(ErrorCode::unsupported, where + ".single: the text occurs more than once");
            continue;
        }
        const std::string& name = text_field(body, "id", where + ".single");
        const auto special = json.find("special_tokens");
        if (special == json.end() || !special->is_object() || !special->contains(name) || !(*special)[name].is_object())
            throw Error(ErrorCode::malformed, fmt::format("{}.special_tokens: \"{}\" is missing", where, printable(name)));
        for (const Json& id : array_field((*special)[name], "ids", where + ".special_tokens"))
            (text_seen ? result.behind : result.before).push_back(id_from_json(id, where + ".special_tokens"));
    }
    if (!text_seen) throw Error(ErrorCode::unsupported, where + ".single: the text does not occur");
    return result;
}

}  // namespace

PostProcessor PostProcessor::from_json(const Json& json, const std::string& where) {
    if (json.is_null()) return {};
    const std::string& kind = kind_of(json, where);
    if (kind == "ByteLevel") return {};  // moves offsets only
    if (kind == "TemplateProcessing") return from_template(json, where);
    if (kind == "BertProcessing" || kind == "RobertaProcessing")
        return {{id_of_pair(json, "cls", where)}, {id_of_pair(json, "sep", where)}};
    if (kind == "Sequence") {
        PostProcessor all;
        const Json& parts = array_field(json, "processors", where);
        for (std::size_t i = 0; i < parts.size(); ++i) {
            const PostProcessor one = from_json(parts[i], fmt::format("{}.processors[{}]", where, i));
            all.before.insert(all.before.begin(), one.before.begin(), one.before.end());
            all.behind.insert(all.behind.end(), one.behind.begin(), one.behind.end());
        }
        return all;
    }
    refuse_kind(where, kind);
}

}  // namespace mixwright::tokenizer
