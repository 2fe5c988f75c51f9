#include "verbs/sampling_options.h"

#include "arch/stop_tokens.h"

namespace mixwright::verbs {

void declare_sampling(CLI::App& app, generate::GenerateOptions& options, std::vector<std::string>& stop_strings) {
    app.add_option("-n,--predict", options.max_new_tokens, "most tokens to generate (default " + std::to_string(options.max_new_tokens) + ")")
        ->check(CLI::Range(1, 1 << 24));
    app.add_option("-c,--ctx-size", options.context_size, "context size in tokens (default: the model's)")->check(CLI::Range(1, 1 << 24));
    app.add_option("--temp", options.sampling.temperature, "temperature; 0 takes the likeliest token")->capture_default_str();
    app.add_option("--top-k", options.sampling.top_k, "sample among the k likeliest (0: all)")->capture_default_str();
    app.add_option("--top-p", options.sampling.top_p, "sample among the likeliest that together reach p (1: all)")->capture_default_str();
    app.add_option("--min-p", options.sampling.min_p, "sample among those at least this times as likely as the likeliest (0: all)")->capture_default_str();
    app.add_option("--repeat-penalty", options.sampling.repetition_penalty, "penalty on tokens already there (1: none)")->capture_default_str();
    app.add_option("--stop", stop_strings, "end before this text (repeat for several)")->expected(1)->take_all();
}

std::vector<std::int64_t> stop_ids(const tokenizer::Tokenizer& tokenizer, const arch::OpenModel& files) {
    std::vector<std::int64_t> ids = arch::eos_token_ids(files);
    if (const auto eos = tokenizer.eos_id()) ids.push_back(*eos);
    return ids;
}

void TextStream::emit(const std::string& piece) {
    text_ += piece;
    if (!piece.empty()) show_(piece);
}

bool TextStream::push(std::int64_t id) {
    emit(stop_.push(decoder_.push(static_cast<tokenizer::TokenId>(id))));
    return !stop_.stopped();
}

std::string TextStream::finish() {
    emit(stop_.push(decoder_.finish()));
    emit(stop_.finish());
    return text_;
}

}  // namespace mixwright::verbs
