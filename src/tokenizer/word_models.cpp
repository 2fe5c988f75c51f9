#include "tokenizer/word_models.h"

#include <algorithm>

#include "tokenizer/json_fields.h"

namespace mixwright::tokenizer {
namespace {

constexpr std::uint64_t max_word_characters = 1000;  // the longest-match search is quadratic in it

bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

Vocabulary vocabulary_of(const io::Json& model, const std::string& where) {
    if (!model.contains("vocab")) throw Error(ErrorCode::malformed, where + ".vocab: missing");
    return Vocabulary::from_json(model["vocab"], where + ".vocab");
}

}  // namespace

void WordLevel::encode(std::string_view piece, Scratch&, std::vector<TokenId>& ids) const {
    const TokenId id = vocabulary_.find(piece);
    if (id != no_token) ids.push_back(id);
    else if (unknown_ != no_token) ids.push_back(unknown_);
}

WordPiece::WordPiece(Vocabulary vocabulary, const std::string& unknown_token, std::string prefix, std::size_t max_characters)
    : vocabulary_(std::move(vocabulary)), unknown_(vocabulary_.find(unknown_token)), prefix_(std::move(prefix)),
      max_characters_(max_characters) {
    if (unknown_ == no_token)
        throw Error(ErrorCode::malformed, fmt::format("the unknown token \"{}\" is not in the vocabulary", printable(unknown_token)));
}

void WordPiece::encode(std::string_view piece, Scratch&, std::vector<TokenId>& ids) const {
    if (static_cast<std::size_t>(std::count_if(piece.begin(), piece.end(), begins_character)) > max_characters_)
        return ids.push_back(unknown_);
    const std::size_t before = ids.size();
    std::string candidate;
    for (std::size_t begin = 0; begin < piece.size();) {
        candidate = begin == 0 ? std::string() : prefix_;
        candidate += piece.substr(begin);
        TokenId id = vocabulary_.find(candidate);
        std::size_t end = piece.size();
        while (id == no_token && end > begin) {
            do {
                --end;
                candidate.pop_back();
            } while (end > begin && !begins_character(piece[end]));
            if (end > begin) id = vocabulary_.find(candidate);
        }
        if (id == no_token) {
            ids.resize(before);
            return ids.push_back(unknown_);
        }
        ids.push_back(id);
        begin = end;
    }
}

WordLevel word_level_from_json(const io::Json& model, const std::string& where) {
    return WordLevel(vocabulary_of(model, where), field_or<std::string>(model, "unk_token", "<unk>", where));
}

WordPiece word_piece_from_json(const io::Json& model, const std::string& where) {
    const auto limit = field_or<std::uint64_t>(model, "max_input_chars_per_word", 100, where);
    if (limit > max_word_characters)
        throw Error(ErrorCode::unsupported, fmt::format("{}.max_input_chars_per_word: too many (got {}, limit {})", where, limit, max_word_characters));
    return WordPiece(vocabulary_of(model, where), field_or<std::string>(model, "unk_token", "[UNK]", where),
                     field_or<std::string>(model, "continuing_subword_prefix", "##", where), limit);
}

}  // namespace mixwright::tokenizer
