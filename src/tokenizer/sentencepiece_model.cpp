#include "tokenizer/sentencepiece_model.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace mixwright::tokenizer {
namespace {

using Processor = sentencepiece::SentencePieceProcessor;

class SentencePieceModel final : public Model {
public:
    explicit SentencePieceModel(std::shared_ptr<const Processor> processor) : processor_(std::move(processor)) {
        for (int id = 0; id < processor_->GetPieceSize(); ++id) vocabulary_.add(processor_->IdToPiece(id), id);
    }

    void encode(std::string_view piece, Scratch&, std::vector<TokenId>& ids) const override {
        std::vector<int> found;
        const auto status = processor_->Encode(absl::string_view(piece.data(), piece.size()), &found);
        if (!status.ok()) throw Error(ErrorCode::failed, fmt::format("SentencePiece: {}", printable(status.ToString())));
        ids.insert(ids.end(), found.begin(), found.end());
    }
    const Vocabulary& vocabulary() const override { return vocabulary_; }
    TokenId unknown_id() const override { return processor_->unk_id(); }

private:
    std::shared_ptr<const Processor> processor_;
    Vocabulary vocabulary_;
};

// SentencePiece says most of what is wrong with a model by its status, some by an exception.
void load(Processor& processor, std::string_view bytes, std::string_view source) {
    std::string problem;
    try {
        const auto status = processor.LoadFromSerializedProto(absl::string_view(bytes.data(), bytes.size()));
        if (status.ok()) return;
        problem = status.ToString();
    } catch (const std::exception& e) {
        problem = e.what();
    }
    throw Error(ErrorCode::malformed, fmt::format("{}: not a SentencePiece model: {}", source, printable(problem)));
}

// Control symbols stand for themselves; SentencePiece turns the pieces between them into text.
Decoder make_decoder(std::shared_ptr<const Processor> processor) {
    return [processor = std::move(processor)](std::vector<std::string>& tokens) {
        std::string text;
        std::vector<std::string> run;
        const auto flush = [&] {
            std::string decoded;
            if (!run.empty() && processor->Decode(run, &decoded).ok()) text += decoded;
            run.clear();
        };
        for (std::string& token : tokens) {
            const int id = processor->PieceToId(token);
            if (!processor->IsControl(id)) {
                run.push_back(std::move(token));
                continue;
            }
            flush();
            text += token;
        }
        flush();
        tokens.assign(1, std::move(text));
    };
}

}  // namespace

Pipeline pipeline_from_sentencepiece(std::string_view bytes, std::string_view source) {
    auto processor = std::make_shared<Processor>();
    load(*processor, bytes, source);
    Pipeline pipeline;
    pipeline.model = std::make_unique<SentencePieceModel>(processor);
    pipeline.decoder = make_decoder(processor);
    pipeline.roles = {processor->bos_id(), processor->eos_id(), processor->pad_id(), processor->unk_id()};
    for (int id = 0; id < processor->GetPieceSize(); ++id)
        if (processor->IsControl(id))
            pipeline.added.add({.id = id, .content = processor->IdToPiece(id), .special = true}, pipeline.model->vocabulary());
    pipeline.added.prepare(pipeline.normalizer);
    return pipeline;
}

}  // namespace mixwright::tokenizer
