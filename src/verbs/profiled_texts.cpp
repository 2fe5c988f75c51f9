#include "verbs/profiled_texts.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <span>

#include "arch/open_tokenizer.h"
#include "calibrate/domain_tokens.h"
#include "data/conversations.h"
#include "error.h"
#include "io/file.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;

// Of a page's sample: tokens times layers times experts a token, so that the page stays light.
constexpr std::int64_t sample_cells = 60'000, most_sample_tokens = 384;

// The first `count` tokens of a sequence as text.
std::vector<std::string> pieces(const tokenizer::Tokenizer& tokenizer, const at::Tensor& ids, std::int64_t count) {
    const at::Tensor values = ids.contiguous();
    const auto* id = values.const_data_ptr<std::int64_t>();
    tokenizer::StreamDecoder decoder(tokenizer, /*skip_special=*/false);
    std::vector<std::string> result;
    for (std::int64_t i = 0; i < std::min(count, values.size(0)); ++i) result.push_back(decoder.push(static_cast<tokenizer::TokenId>(id[i])));
    return result;
}

}  // namespace

std::vector<calibrate::ProfiledText> profiled_texts(const std::string& model_name, const arch::OpenModel& model, const std::vector<std::string>& paths,
                                                    std::int64_t tokens, std::int64_t context) {
    const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(model_name);
    const data::ChatRenderer render_chat = data::chat_renderer_of(model_name);
    const std::int64_t shown = std::clamp<std::int64_t>(sample_cells / std::max<std::int64_t>(1, model.spec.num_layers * model.spec.top_k), 64, most_sample_tokens);
    std::vector<calibrate::ProfiledText> texts;
    for (const std::string& path : paths) {
        const calibrate::DomainSettings settings{.tokens = tokens, .context = std::min(context, model.spec.max_positions), .held_out = 0.5};
        calibrate::DomainTokens domain = calibrate::read_domain(tokenizer, render_chat, {path}, {}, settings, model.spec.vocab_size, path);
        calibrate::ProfiledText text{.name = printable(last_name(path)), .tokens = domain.num_fit + domain.num_held_out};
        text.sample = pieces(tokenizer, domain.fit.front().ids.select(0, 0), shown);  // its neighbour is held out
        for (auto* part : {&domain.fit, &domain.held_out}) text.batches.insert(text.batches.end(), part->begin(), part->end());
        texts.push_back(std::move(text));
    }
    return texts;
}

void check_page(const std::string& path) {
    const fs::path parent = fs::path(path).parent_path();
    std::error_code error;
    if (fs::is_directory(path, error)) throw Error(ErrorCode::usage, fmt::format("--report {}: is a folder", printable(path)), "name a .html file in it");
    if (!parent.empty() && !fs::is_directory(parent, error))
        throw Error(ErrorCode::usage, fmt::format("--report {}: there is no folder {}", printable(path), printable(parent.string())));
}

void write_page(const std::string& path, const std::string& page) {
    io::File file = io::File::open_or_create(path);
    file.truncate(0);
    file.write_at(0, std::as_bytes(std::span(page)));
}

std::string last_name(const std::string& path) {
    const fs::path normal = fs::path(path).lexically_normal();
    return (normal.has_filename() ? normal : normal.parent_path()).filename().string();
}

}  // namespace mixwright::verbs
