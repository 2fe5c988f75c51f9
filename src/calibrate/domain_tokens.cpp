#include "calibrate/domain_tokens.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <span>

#include "data/packing.h"
#include "error.h"

namespace mixwright::calibrate {
namespace {

constexpr std::int64_t shortest_sequence = 8;
constexpr std::int64_t tokens_at_once = 2048;  // in one batch: bounds the widest intermediate of a layer

// [first, first + count) of the sequences as batches.
void append_batches(const std::vector<tokenizer::TokenId>& ids, std::int64_t length, const std::vector<std::int64_t>& sequences,
                    std::vector<model::StreamedBatch>& batches) {
    const auto rows_at_once = static_cast<std::size_t>(std::max<std::int64_t>(1, tokens_at_once / length));
    for (std::size_t first = 0; first < sequences.size(); first += rows_at_once) {
        const std::size_t rows = std::min(rows_at_once, sequences.size() - first);
        at::Tensor batch = at::empty({static_cast<std::int64_t>(rows), length}, at::kLong);
        auto* out = batch.mutable_data_ptr<std::int64_t>();
        for (std::size_t r = 0; r < rows; ++r) out = std::copy_n(ids.begin() + sequences[first + r] * length, length, out);
        batches.push_back({.ids = std::move(batch)});
    }
}

}  // namespace

std::vector<data::Document> mixed_documents(const std::vector<std::filesystem::path>& files, const data::ChatRenderer& render_chat) {
    std::vector<data::Document> documents;
    for (const auto& file : files) std::ranges::move(data::read_documents(file, render_chat), std::back_inserter(documents));
    std::mt19937_64 random(1);
    for (std::size_t i = documents.size(); i > 1; --i) std::swap(documents[i - 1], documents[random() % i]);
    return documents;
}

DomainTokens cut_domain(std::vector<tokenizer::TokenId> ids, const DomainSettings& settings, std::int64_t vocab_size, const std::string& who) {
    if (static_cast<std::int64_t>(ids.size()) > settings.tokens) ids.resize(static_cast<std::size_t>(settings.tokens));
    if (const auto beyond = std::ranges::find_if(ids, [&](auto id) { return id >= vocab_size; }); beyond != ids.end())
        throw Error(ErrorCode::mismatch, fmt::format("{}: token {} of its text is not among the model's {} embeddings", who, *beyond, vocab_size));
    const auto total = static_cast<std::int64_t>(ids.size());
    if (total < 2 * shortest_sequence)
        throw Error(ErrorCode::malformed, fmt::format("{}: only {} tokens of text to learn its domain from", who, total),
                    "give it `data:` with at least a few hundred words; some thousand are better");

    // With little text short sequences, so that there are enough of them to hold some out.
    const std::int64_t length = std::clamp(total / 8, shortest_sequence, settings.context);
    const std::int64_t count = total / length;
    const auto every = std::max<std::int64_t>(2, static_cast<std::int64_t>(1.0 / settings.held_out + 0.5));
    std::vector<std::int64_t> fit, held_out;
    for (std::int64_t s = 0; s < count; ++s) (s % every == every - 1 || (count < every && s == count - 1) ? held_out : fit).push_back(s);

    DomainTokens domain;
    append_batches(ids, length, fit, domain.fit);
    append_batches(ids, length, held_out, domain.held_out);
    domain.num_fit = static_cast<std::int64_t>(fit.size()) * length;
    domain.num_held_out = static_cast<std::int64_t>(held_out.size()) * length;
    return domain;
}

DomainTokens read_domain(const tokenizer::Tokenizer& tokenizer, const data::ChatRenderer& render_chat, const std::vector<std::filesystem::path>& files,
                         const std::vector<std::string>& prompts, const DomainSettings& settings, std::int64_t vocab_size,
                         const std::string& who) {
    std::vector<data::Document> documents = mixed_documents(files, render_chat);
    if (files.empty())
        for (const std::string& prompt : prompts) documents.push_back({.segments = {{prompt}}});
    data::TokenStream text = data::tokenize(documents, tokenizer, tokenizer.eos_id(), static_cast<std::size_t>(settings.tokens));
    return cut_domain(std::move(text.ids), settings, vocab_size, who);
}

std::vector<model::StreamedBatch> DomainTokens::all() const {
    std::vector<model::StreamedBatch> batches = fit;
    batches.insert(batches.end(), held_out.begin(), held_out.end());
    return batches;
}

std::vector<model::StreamedBatch> DomainTokens::sample(std::int64_t tokens) const {
    std::vector<model::StreamedBatch> batches;
    for (const model::StreamedBatch& batch : held_out) {
        if (tokens <= 0) break;
        const std::int64_t rows = std::min(batch.ids.size(0), std::max<std::int64_t>(1, tokens / batch.ids.size(1)));
        batches.push_back({.ids = batch.ids.narrow(0, 0, rows)});
        tokens -= rows * batch.ids.size(1);
    }
    return batches;
}

}  // namespace mixwright::calibrate
