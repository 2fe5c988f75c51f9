#include "tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode_text.h"
#include "tokenizer/word_cache.h"

namespace mixwright::tokenizer {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581
constexpr std::size_t few = 32;                          // up to here a scan for the best pair beats a heap

}  // namespace

void MergeTable::reserve(std::size_t merges) {
    const std::size_t wanted = std::bit_ceil(merges * 2 + 16);
    if (wanted <= slots_.size()) return;
    std::vector<Slot> old(wanted);
    old.swap(slots_);
    mask_ = wanted - 1;
    for (const Slot& slot : old) {
        if (slot.key == empty) continue;
        std::size_t at = slot_of(slot.key);
        while (slots_[at].key != empty) at = (at + 1) & mask_;
        slots_[at] = slot;
    }
}

void MergeTable::set(TokenId left, TokenId right, Merge merge) {
    reserve(used_ + 1);
    const std::uint64_t key = key_of(left, right);
    std::size_t slot = slot_of(key);
    while (slots_[slot].key != empty && slots_[slot].key != key) slot = (slot + 1) & mask_;
    if (slots_[slot].key == empty) ++used_;
    slots_[slot] = {key, merge};
}

struct Bpe::Scratch final : Model::Scratch {
    struct Symbol {
        TokenId id;
        std::uint32_t previous, next;
        MergeTable::Merge merge;  // with the next symbol
        bool alive;
    };
    WordCache cache;
    std::vector<TokenId> start;        // ids before the first merge
    std::vector<Symbol> symbols;
    std::vector<std::uint64_t> heap;   // rank << 32 | position
};

Bpe::Bpe(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges, BpeOptions options,
         std::string_view source)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
    if (!options_.unknown_token.empty()) unknown_ = vocabulary_.find(options_.unknown_token);

    merges_.reserve(merges.size());
    std::string joined;
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
        const auto& [left, right] = merges[rank];
        joined = left;
        const bool has_prefix = !options_.continuing_subword_prefix.empty() && right.starts_with(options_.continuing_subword_prefix);
        joined.append(right, has_prefix ? options_.continuing_subword_prefix.size() : 0);
        const TokenId left_id = vocabulary_.find(left), right_id = vocabulary_.find(right), result = vocabulary_.find(joined);
        if (left_id == no_token || right_id == no_token || result == no_token)
            throw Error(ErrorCode::malformed,
                        fmt::format("{}: merge {} (\"{}\" \"{}\"): \"{}\" is not in the vocabulary", source, rank, printable(left),
                                    printable(right), printable(left_id == no_token ? left : right_id == no_token ? right : joined)));
        merges_.set(left_id, right_id, {static_cast<std::uint32_t>(rank), result});
    }

    byte_ids_.fill(no_token);
    ascii_ids_.fill(no_token);
    if (options_.raw_bytes) {
        raw_.reserve(vocabulary_.size());
        for (TokenId id = 0; static_cast<std::size_t>(id) < vocabulary_.id_limit(); ++id)
            if (const auto bytes = from_byte_alphabet(vocabulary_.token(id)); bytes && vocabulary_.has(id)) raw_.add(*bytes, id);
        for (int byte = 0; byte < 256; ++byte) {
            const auto character = static_cast<char>(byte);
            byte_ids_[static_cast<std::size_t>(byte)] = raw_.find({&character, 1});
        }
    } else {
        for (int byte = 0; byte < 256; ++byte)
            byte_ids_[static_cast<std::size_t>(byte)] = vocabulary_.find(byte_token(static_cast<unsigned char>(byte)));
        for (int code = 0; code < 128; ++code) {
            const auto character = static_cast<char>(code);
            ascii_ids_[static_cast<std::size_t>(code)] = vocabulary_.find({&character, 1});
        }
        find_boundary(merges);
    }
}

// Models of the SentencePiece kind get whole lines as one piece. Where no merge can cross from another character to a
// space mark, the line falls apart into words, which the cache knows.
void Bpe::find_boundary(const std::vector<std::pair<std::string, std::string>>& merges) {
    if (!options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty()) return;
    if (vocabulary_.find(space_mark) == no_token) return;
    cut_at_space_mark_ = std::none_of(merges.begin(), merges.end(), [](const auto& merge) {
        return merge.second.starts_with(space_mark) && !merge.first.ends_with(space_mark);
    });
}

std::unique_ptr<Model::Scratch> Bpe::make_scratch() const { return std::make_unique<Scratch>(); }

void Bpe::encode(std::string_view piece, Model::Scratch& base, std::vector<TokenId>& ids) const {
    auto& scratch = static_cast<Scratch&>(base);
    if (options_.ignore_merges) {
        const TokenId whole = (options_.raw_bytes ? raw_ : vocabulary_).find(piece);
        if (whole != no_token) return ids.push_back(whole);
    }
    if (!cut_at_space_mark_) return encode_word(piece, scratch, ids);
    while (!piece.empty()) {
        std::size_t cut = 0;
        while (piece.substr(cut).starts_with(space_mark)) cut += space_mark.size();
        cut = std::min(piece.find(space_mark, cut), piece.size());
        encode_word(piece.substr(0, cut), scratch, ids);
        piece.remove_prefix(cut);
    }
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<TokenId>& ids) const {
    if (word.empty()) return;
    const bool cached = word.size() <= WordCache::max_word;
    if (cached) {
        if (const auto known = scratch.cache.find(word); !known.empty()) {
            ids.insert(ids.end(), known.begin(), known.end());
            return;
        }
    }
    const std::size_t before = ids.size();
    start_symbols(word, scratch);
    if (scratch.start.size() <= few)
        merge_few(scratch, ids);
    else
        merge_many(scratch, ids);
    if (cached) scratch.cache.insert(word, std::span(ids).subspan(before));
}

TokenId Bpe::character_id(std::string_view character, bool first, bool last) const {
    const bool prefixed = !first && !options_.continuing_subword_prefix.empty();
    const bool suffixed = last && !options_.end_of_word_suffix.empty();
    if (!prefixed && !suffixed)
        return character.size() == 1 ? ascii_ids_[static_cast<unsigned char>(character[0])] : vocabulary_.find(character);
    std::string decorated = prefixed ? options_.continuing_subword_prefix : std::string();
    decorated += character;
    if (suffixed) decorated += options_.end_of_word_suffix;
    return vocabulary_.find(decorated);
}

// Characters (or bytes) as ids, with byte fallback and the unknown token, exactly as Hugging Face tokenizers order them.
void Bpe::start_symbols(std::string_view word, Scratch& scratch) const {
    auto& start = scratch.start;
    start.clear();
    bool unknown_pending = false;
    for (std::size_t position = 0; position < word.size();) {
        const std::size_t length = options_.raw_bytes ? 1 : utf8_length(word[position]);
        const std::string_view character = word.substr(position, length);
        const bool first = position == 0;
        position += length;
        const TokenId id = options_.raw_bytes ? byte_ids_[static_cast<unsigned char>(character[0])]
                                              : character_id(character, first, position == word.size());
        if (id != no_token) {
            if (unknown_pending) start.push_back(unknown_);
            unknown_pending = false;
            start.push_back(id);
            continue;
        }
        if (options_.byte_fallback && !options_.raw_bytes) {
            const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
            if (std::all_of(character.begin(), character.end(), [&](char byte) { return byte_id(byte) != no_token; })) {
                for (const char byte : character) start.push_back(byte_id(byte));
                continue;
            }
        }
        if (unknown_ == no_token) continue;
        if (unknown_pending && !options_.fuse_unknown) start.push_back(unknown_);
        unknown_pending = true;
    }
    if (unknown_pending) start.push_back(unknown_);
}

void Bpe::merge_few(Scratch& scratch, std::vector<TokenId>& ids) const {
    std::array<TokenId, few> symbol;
    std::array<MergeTable::Merge, few> merge;  // of a symbol with its right neighbour
    std::size_t count = scratch.start.size();
    std::copy(scratch.start.begin(), scratch.start.end(), symbol.begin());
    for (std::size_t i = 0; i + 1 < count; ++i) merge[i] = merges_.find(symbol[i], symbol[i + 1]);
    while (count > 1) {
        std::size_t best = 0;
        for (std::size_t i = 1; i + 1 < count; ++i)
            if (merge[i].rank < merge[best].rank) best = i;
        if (merge[best].rank == MergeTable::no_rank) break;
        symbol[best] = merge[best].result;
        for (std::size_t i = best + 1; i + 1 < count; ++i) {
            symbol[i] = symbol[i + 1];
            merge[i] = merge[i + 1];
        }
        --count;
        if (best + 1 < count) merge[best] = merges_.find(symbol[best], symbol[best + 1]);
        if (best > 0) merge[best - 1] = merges_.find(symbol[best - 1], symbol[best]);
    }
    ids.insert(ids.end(), symbol.begin(), symbol.begin() + static_cast<std::ptrdiff_t>(count));
}

// The same result in n log n: a linked list of symbols and a heap of candidate merges.
void Bpe::merge_many(Scratch& scratch, std::vector<TokenId>& ids) const {
    constexpr std::uint32_t none = ~std::uint32_t{0};
    if (scratch.start.size() >= none)
        throw Error(ErrorCode::unsupported, fmt::format("the text is too long to be one word (got {} characters)", scratch.start.size()));
    const auto count = static_cast<std::uint32_t>(scratch.start.size());
    auto& symbols = scratch.symbols;
    auto& heap = scratch.heap;
    symbols.resize(count);
    heap.clear();
    const auto offer = [&](std::uint32_t at) {
        auto& symbol = symbols[at];
        symbol.merge = symbol.next == none ? MergeTable::Merge{} : merges_.find(symbol.id, symbols[symbol.next].id);
        if (symbol.merge.rank == MergeTable::no_rank) return false;
        heap.push_back(static_cast<std::uint64_t>(symbol.merge.rank) << 32 | at);
        return true;
    };
    for (std::uint32_t i = 0; i < count; ++i)
        symbols[i] = {scratch.start[i], i == 0 ? none : i - 1, i + 1 == count ? none : i + 1, {}, true};
    for (std::uint32_t i = 0; i < count; ++i) offer(i);
    std::make_heap(heap.begin(), heap.end(), std::greater<>());
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end(), std::greater<>());
        const auto at = static_cast<std::uint32_t>(heap.back());
        const auto rank = static_cast<std::uint32_t>(heap.back() >> 32);
        heap.pop_back();
        auto& left = symbols[at];
        if (!left.alive || left.merge.rank != rank) continue;  // a candidate that a neighbour's merge outdated
        const std::uint32_t gone = left.next;
        left.id = left.merge.result;
        left.next = symbols[gone].next;
        symbols[gone].alive = false;
        if (left.next != none) symbols[left.next].previous = at;
        if (offer(at)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
        if (left.previous != none && offer(left.previous)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
    for (std::uint32_t at = 0; at != none; at = symbols[at].next) ids.push_back(symbols[at].id);
}

}  // namespace mixwright::tokenizer
