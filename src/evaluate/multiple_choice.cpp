#include "evaluate/multiple_choice.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "error.h"
#include "model/head.h"
#include "progress.h"

namespace mixwright::evaluate {
namespace {

using Ids = std::vector<std::int64_t>;

Ids encode(const tokenizer::Tokenizer& tokenizer, const std::string& text) {
    const auto ids = tokenizer.encode(text);
    return {ids.begin(), ids.end()};
}

class Scorer {
public:
    explicit Scorer(const model::Model& model) : model_(model), limit_(model.decoder.spec().max_positions), cache_(model.decoder.spec(), limit_) {}

    // Log-likelihood of ids [prompt, end), in nats. What came before is in the cache from the last call when its prompt was the same.
    double operator()(Ids ids, std::int64_t prompt) {
        if (const auto excess = std::ssize(ids) - limit_; excess > 0) {
            if (excess >= prompt) throw Error(ErrorCode::failed, fmt::format("an answer of {} tokens does not fit the context of {}", std::ssize(ids) - prompt, limit_));
            ids.erase(ids.begin(), ids.begin() + excess);
            prompt -= excess;
        }
        // The last token of the prompt is run again each time: it predicts the first one of the answer.
        const auto common = std::ranges::mismatch(seen_, ids).in1 - seen_.begin();
        cache_.truncate(std::min<std::int64_t>(common, prompt - 1));
        const std::int64_t first = cache_.length(), count = std::ssize(ids) - first;
        const at::Device device = model_.placement.device;
        const at::Tensor input = at::tensor(ids, at::kLong).narrow(0, first, count).unsqueeze(0).to(device);
        const at::Tensor hidden = model_.run(input, model_.decoder.step(count, device, &cache_)).squeeze(0);
        seen_ = std::move(ids);
        const std::int64_t answer = std::ssize(seen_) - prompt;
        const at::Tensor targets = at::tensor(seen_, at::kLong).narrow(0, prompt, answer).to(device);
        return -model::token_losses(model_.decoder, model_.weights, hidden.narrow(0, prompt - 1 - first, answer), targets).sum().item<double>();
    }

private:
    const model::Model& model_;
    std::int64_t limit_;
    model::KvCache cache_;
    Ids seen_;
};

}  // namespace

ChoiceScores multiple_choice(const model::Model& model, const tokenizer::Tokenizer& tokenizer, std::span<const ChoiceQuestion> questions) {
    const c10::InferenceMode guard;
    ChoiceScores scores;
    Scorer score(model);
    Progress progress("choosing answers", questions.size(), "questions");
    for (const ChoiceQuestion& question : questions) {
        check_interrupted();
        // A token may reach over the end of the prompt: the answer is what the whole has beyond it, as harnesses count.
        const std::int64_t prompt = std::ssize(encode(tokenizer, question.prompt));
        std::vector<double> sums, means;
        for (const std::string& option : question.options) {
            const Ids whole = encode(tokenizer, question.prompt + " " + option);
            const std::int64_t begin = std::clamp<std::int64_t>(prompt, 1, std::ssize(whole) - 1);
            sums.push_back(score(whole, begin));
            means.push_back(sums.back() / static_cast<double>(option.size()));
        }
        const auto best = [](const std::vector<double>& values) { return static_cast<std::size_t>(std::ranges::max_element(values) - values.begin()); };
        scores.by_sum.right += best(sums) == question.right;
        scores.by_byte.right += best(means) == question.right;
        scores.by_sum.asked = ++scores.by_byte.asked;
        progress.advance();
    }
    return scores;
}

}  // namespace mixwright::evaluate
