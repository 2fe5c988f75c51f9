#include "verbs/parted_texts.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "arch/open_tokenizer.h"
#include "data/conversations.h"
#include "io/sha256.h"
#include "progress.h"

namespace mixwright::verbs {
namespace {

constexpr std::int64_t judge_tokens = 8192;  // of each text

data::TokenStream cut(const data::TokenStream& text, std::int64_t begin, std::int64_t count) {
    data::TokenStream part;
    part.ids.assign(text.ids.begin() + begin, text.ids.begin() + begin + count);
    part.learn.assign(text.learn.begin() + begin, text.learn.begin() + begin + count);
    return part;
}

}  // namespace

std::vector<PartedText> read_parted_texts(const std::string& moe, const std::vector<std::string>& files, const arch::ModelSpec& spec, const PartedTextSettings& settings) {
    std::vector<PartedText> texts;
    if (files.empty()) return texts;
    const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(moe);
    const data::ChatRenderer render_chat = data::chat_renderer_of(moe);
    const auto num_files = static_cast<std::int64_t>(files.size());
    const std::int64_t share = settings.tokens / num_files, wanted = std::max(share, settings.heal_tokens / num_files);
    for (const std::string& file : files) {
        const std::vector<data::Document> documents = calibrate::mixed_documents({std::filesystem::path(file)}, render_chat);
        const std::int64_t judged = std::min(judge_tokens, share / 2);
        const data::TokenStream text = data::tokenize(documents, tokenizer, tokenizer.eos_id(), static_cast<std::size_t>(wanted + judged));
        const auto total = static_cast<std::int64_t>(text.size());
        // A fifth of what there is, when there is less than was asked for.
        const std::int64_t kept = std::min(judged, total / 5), rest = total - kept;
        if (total < share) info(fmt::format("{}: {} tokens of text, {} were asked for", file, total, share));
        PartedText one{.name = std::filesystem::path(file).filename().string(), .heal = cut(text, 0, rest), .judge = cut(text, rest, kept)};
        std::vector<tokenizer::TokenId> ids(text.ids.begin(), text.ids.begin() + std::min(share, rest));
        one.learn = calibrate::cut_domain(std::move(ids), {.tokens = share, .context = settings.context}, spec.vocab_size, file);
        texts.push_back(std::move(one));
    }
    return texts;
}

std::string identity_of(const std::vector<PartedText>& texts) {
    io::Sha256 hash;
    for (const PartedText& text : texts)
        for (const auto* batches : {&text.learn.fit, &text.learn.held_out})
            for (const model::StreamedBatch& batch : *batches)
                hash.update(std::as_bytes(std::span(batch.ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(batch.ids.numel()))));
    return hash.hex();
}

}  // namespace mixwright::verbs
