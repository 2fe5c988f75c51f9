#include "verbs/lessons.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <functional>

#include "split/token_clusters.h"

namespace mixwright::verbs {
namespace {

// Of every token of each batch, how much of it belongs to each kind.
using Shares = std::function<std::vector<at::Tensor>(const std::vector<model::StreamedBatch>&)>;

void append(data::TokenStream& text, const data::TokenStream& more) {
    text.ids.insert(text.ids.end(), more.ids.begin(), more.ids.end());
    text.learn.insert(text.learn.end(), more.learn.begin(), more.learn.end());
}

data::TokenStream joined(const std::vector<PartedText>& texts, data::TokenStream PartedText::*which) {
    data::TokenStream all;
    for (const PartedText& text : texts) append(all, text.*which);
    return all;
}

void add_text(split::StudentText& lesson, const PartedText& text) {
    lesson.about += fmt::format("{}{}", lesson.about.empty() ? "" : " and ", text.name);
    lesson.fit.insert(lesson.fit.end(), text.learn.fit.begin(), text.learn.fit.end());
    lesson.held_out.insert(lesson.held_out.end(), text.learn.held_out.begin(), text.learn.held_out.end());
}

std::vector<JudgeText> judge_texts(const std::vector<PartedText>& texts) {
    std::vector<JudgeText> judge;
    for (const PartedText& text : texts) judge.push_back({text.name, text.judge});
    return judge;
}

// Windows of a text, each put to the kind it is most of.
std::vector<data::TokenStream> by_kind(const data::TokenStream& text, std::int64_t count, std::int64_t context, const Shares& shares) {
    std::vector<model::StreamedBatch> windows;
    for (std::int64_t begin = 0; begin + context <= static_cast<std::int64_t>(text.size()); begin += context) {
        const std::vector<std::int64_t> ids(text.ids.begin() + begin, text.ids.begin() + begin + context);
        windows.push_back({.ids = at::tensor(ids, at::kLong).unsqueeze(0)});
    }
    const std::vector<at::Tensor> of_windows = shares(windows);
    std::vector<data::TokenStream> kinds(static_cast<std::size_t>(count));
    for (std::size_t w = 0; w < windows.size(); ++w) {
        data::TokenStream& kind = kinds[static_cast<std::size_t>(of_windows[w].sum(0).argmax().item<std::int64_t>())];
        const auto begin = static_cast<std::ptrdiff_t>(w) * context;
        kind.ids.insert(kind.ids.end(), text.ids.begin() + begin, text.ids.begin() + begin + context);
        kind.learn.insert(kind.learn.end(), text.learn.begin() + begin, text.learn.begin() + begin + context);
    }
    return kinds;
}

}  // namespace

data::TokenStream Lessons::judged() const {
    data::TokenStream all;
    for (std::size_t t = 0; t < num_texts; ++t) append(all, judge[t].tokens);
    return all;
}

Lessons lessons_by_text(const std::vector<PartedText>& texts, bool each) {
    Lessons lessons{.judge = judge_texts(texts), .num_texts = texts.size()};
    for (const PartedText& text : texts) {
        if (each || lessons.fit.empty()) {
            lessons.fit.emplace_back();
            lessons.heal.emplace_back();
        }
        add_text(lessons.fit.back(), text);
        append(lessons.heal.back(), text.heal);
    }
    return lessons;
}

Lessons lessons_by_kind(const arch::OpenModel& moe, const std::vector<PartedText>& texts, std::int64_t count, std::int64_t context, const model::Placement& placement) {
    Lessons lessons{.judge = judge_texts(texts), .num_texts = texts.size()};
    split::StudentText all;
    for (const PartedText& text : texts) add_text(all, text);
    const split::ExpertClusters clusters = split::cluster_experts(moe, all.fit, count, placement);
    const Shares shares = [&](const std::vector<model::StreamedBatch>& batches) { return split::cluster_shares(moe, batches, clusters, count, placement); };
    const std::vector<at::Tensor> fit = shares(all.fit), held_out = shares(all.held_out);
    const std::vector<data::TokenStream> judge = by_kind(joined(texts, &PartedText::judge), count, context, shares);
    for (std::int64_t c = 0; c < count; ++c) {
        split::StudentText& lesson = lessons.fit.emplace_back(all);
        lesson.about += fmt::format(", of it kind {} of {} that the experts tell apart", c, count);
        // Squared: a token that is no more of this kind than of others counts little.
        for (const at::Tensor& share : fit) lesson.fit_weights.push_back(share.select(1, c).square());
        for (const at::Tensor& share : held_out) lesson.held_out_weights.push_back(share.select(1, c).square());
        if (const data::TokenStream& kind = judge[static_cast<std::size_t>(c)]; kind.size() > 0) lessons.judge.push_back({fmt::format("kind {}", c), kind});
    }
    lessons.heal = by_kind(joined(texts, &PartedText::heal), count, context, shares);
    return lessons;
}

}  // namespace mixwright::verbs
