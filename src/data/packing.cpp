#include "data/packing.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "progress.h"

namespace mixwright::data {
namespace {

// Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
std::uint64_t splitmix64(std::uint64_t& state) {
    std::uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

}  // namespace

TokenStream tokenize(std::span<const Document> documents, const tokenizer::Tokenizer& tokenizer,
                     std::optional<tokenizer::TokenId> end_of_text, std::size_t max_tokens) {
    TokenStream stream;
    Progress progress("tokenizing", documents.size(), "texts");
    for (const Document& document : documents) {
        bool first = true, learn = true;
        for (const Segment& segment : document.segments) {
            tokenizer.encode(segment.text, {.add_special_tokens = first && !document.has_special_tokens}, stream.ids);
            learn = segment.learn;
            stream.learn.resize(stream.ids.size(), learn);
            first = false;
        }
        const bool closed = document.has_special_tokens || (!stream.ids.empty() && stream.ids.back() == end_of_text);
        if (end_of_text && !closed) {
            stream.ids.push_back(*end_of_text);
            stream.learn.push_back(learn);
        }
        progress.advance();
        if (max_tokens > 0 && stream.size() >= max_tokens) break;
    }
    return stream;
}

PackedSequences::PackedSequences(TokenStream stream, std::size_t length)
    : ids_(std::move(stream.ids)), learn_(std::move(stream.learn)), length_(length) {
    for (std::size_t begin = 0; begin + length < ids_.size(); begin += length) begins_.push_back(begin);
}

std::size_t PackedSequences::num_learnt() const noexcept {
    std::size_t count = 0;
    for (std::size_t i = 0; i < size(); ++i)
        for (const std::uint8_t counts : learn(i)) count += counts;
    return count;
}

PackedSequences PackedSequences::take_held_out(double share) {
    PackedSequences held_out;
    held_out.length_ = length_;
    std::vector<std::size_t> kept;
    const auto wanted = std::min(std::max<std::size_t>(static_cast<std::size_t>(share * static_cast<double>(size())), 1), size() / 2);
    for (std::size_t i = 0; i < size(); ++i) {
        const bool take = (i + 1) * wanted / size() > i * wanted / size();
        (take ? held_out.begins_ : kept).push_back(begins_[i]);
    }
    begins_ = std::move(kept);
    held_out.ids_ = ids_;
    held_out.learn_ = learn_;
    return held_out;
}

std::vector<std::uint32_t> shuffled_order(std::size_t count, std::uint64_t seed, std::uint64_t epoch) {
    std::vector<std::uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0u);
    std::uint64_t state = seed;
    state = splitmix64(state) ^ epoch;
    for (std::size_t i = count; i > 1; --i) std::swap(order[i - 1], order[splitmix64(state) % i]);
    return order;
}

}  // namespace mixwright::data
