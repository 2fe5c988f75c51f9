#include "calibrate/prompts.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "error.h"

namespace mixwright::calibrate {

model::StreamedBatch prompt_batch(const tokenizer::Tokenizer& tokenizer, const std::vector<std::string>& prompts,
                                  std::int64_t vocab_size, std::string_view model) {
    const std::string bos = tokenizer.bos_id() ? std::string(tokenizer.id_to_token(*tokenizer.bos_id())) : "";
    std::vector<std::vector<tokenizer::TokenId>> rows;
    std::size_t length = 1;
    for (const std::string& prompt : prompts) {
        rows.push_back(tokenizer.encode(bos + prompt, {.add_special_tokens = false, .parse_special = true}));
        for (const tokenizer::TokenId id : rows.back())
            if (id >= vocab_size)
                throw Error(ErrorCode::mismatch,
                            fmt::format("{}: token {} (\"{}\") of a prompt is not among the model's {} embeddings", model, id,
                                        printable(tokenizer.id_to_token(id), 40), vocab_size),
                            "its tokenizer has tokens the model was never given: use the tokenizer that belongs to it");
        length = std::max(length, rows.back().size());
    }

    const std::int64_t padding = tokenizer.bos_id().value_or(tokenizer.eos_id().value_or(0));
    const auto num_rows = static_cast<std::int64_t>(rows.size()), columns = static_cast<std::int64_t>(length);
    model::StreamedBatch batch{.ids = at::full({num_rows, columns}, padding, at::kLong), .key_mask = at::zeros({num_rows, columns}, at::kBool)};
    bool padded = false;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        const std::size_t start = length - rows[r].size();
        padded |= start > 0;
        auto* ids = batch.ids.mutable_data_ptr<std::int64_t>() + r * length;
        auto* mask = batch.key_mask.mutable_data_ptr<bool>() + r * length;
        for (std::size_t i = 0; i < rows[r].size(); ++i) {
            ids[start + i] = rows[r][i];
            mask[start + i] = true;
        }
    }
    if (!padded) batch.key_mask = at::Tensor();
    return batch;
}

}  // namespace mixwright::calibrate
