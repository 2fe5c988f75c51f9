// Every architecture against its golden (tools/make_goldens.py): the config.json and the tensors that transformers writes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "arch/architecture.h"
#include "arch/published_layout.h"
#include "arch/render_config.h"
#include "arch/stored_pieces.h"
#include "checked.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorInfo;

struct Golden {
    io::Json config;
    std::int64_t parameters = 0;
    std::vector<TensorInfo> tensors;
};

Golden read_golden(std::string_view model_type) {
    std::ifstream file(std::string(MIXWRIGHT_SOURCE_DIR) + "/tests/goldens/" + std::string(model_type) + ".txt");
    Golden golden;
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string kind;
        words >> kind;
        if (kind == "config") golden.config = io::parse_json(line.substr(7), "golden");
        if (kind == "parameters") words >> golden.parameters;
        if (kind != "tensor") continue;
        TensorInfo info;
        words >> info.name;
        for (std::int64_t size = 0; words >> size;) info.shape.push_back(size);
        golden.tensors.push_back(std::move(info));
    }
    std::ranges::sort(golden.tensors, {}, &TensorInfo::name);
    return golden;
}

// Names and shapes without values.
class Headers final : public checkpoint::TensorSource {
public:
    explicit Headers(std::vector<TensorInfo> tensors) : tensors_(std::move(tensors)) {}
    const std::vector<TensorInfo>& tensors() const override { return tensors_; }
    checkpoint::TensorBytes bytes(const TensorInfo&) const override { return {}; }
    std::string where(const TensorInfo&) const override { return "golden"; }

private:
    std::vector<TensorInfo> tensors_;
};

class EveryArchitecture : public testing::TestWithParam<const Architecture*> {
protected:
    Golden golden = read_golden(GetParam()->model_type);
    ModelSpec spec = parse_config(golden.config, "config.json");
};

TEST_P(EveryArchitecture, finds_every_tensor_that_transformers_saves_and_no_other) {
    const StoredPieces found = find_pieces(Headers(golden.tensors), spec, "golden");
    EXPECT_THAT(found.unused, testing::IsEmpty());
    EXPECT_EQ(spec.num_parameters(), golden.parameters);
    EXPECT_EQ(spec.architecture, GetParam());
    EXPECT_EQ(spec.architecture->hf_class, golden.config["architectures"][0].get<std::string>());
}

TEST_P(EveryArchitecture, reads_each_stored_value_exactly_once) {
    // The elements that the pieces of one stored tensor name must be all of its elements.
    std::map<std::string, std::vector<bool>> seen;
    const Headers headers(golden.tensors);
    for (const Piece& piece : find_pieces(headers, spec, "golden").pieces) {
        auto& elements = seen[piece.disk->name];
        elements.resize(static_cast<std::size_t>(piece.disk->numel()));
        for (std::int64_t r = 0; r < piece.rows(); ++r)
            for (std::int64_t c = 0; c < piece.columns(); ++c) {
                const auto at = static_cast<std::size_t>(piece.offset + r * piece.row_stride + c * piece.column_stride);
                ASSERT_LT(at, elements.size()) << piece.info.name;
                ASSERT_FALSE(elements[at]) << piece.info.name << " shares a value with another tensor";
                elements[at] = true;
            }
    }
    for (const auto& [name, elements] : seen) EXPECT_TRUE(std::ranges::all_of(elements, [](bool b) { return b; })) << name;
}

TEST_P(EveryArchitecture, is_published_as_transformers_saves_it) {
    // Each canonical tensor holds numbers of its own; what is published must have the golden's names and shapes, and hold
    // every number where find_pieces looks for it.
    std::vector<checkpoint::OutputTensor> canonical;
    std::map<std::string, float> first;
    float next = 0;
    for (const TensorSlot& slot : tensor_slots(spec)) {
        std::vector<float> values(static_cast<std::size_t>(checked_numel(slot.shape, "slot")));
        first[slot.name] = next;
        for (float& value : values) value = next++;
        const auto bytes = std::as_bytes(std::span(values));
        canonical.push_back({{slot.name, Dtype::f32, slot.shape}, checkpoint::OwnedBytes(bytes.begin(), bytes.end())});
    }
    ASSERT_LT(next, 1 << 24) << "floats are exact up to here";
    std::map<std::string, std::vector<float>> stored;
    std::vector<TensorInfo> infos;
    for (const checkpoint::OutputTensor& tensor : published(spec, canonical)) {
        std::vector<float> values(static_cast<std::size_t>(tensor.info.numel()));
        if (const auto* owned = std::get_if<checkpoint::OwnedBytes>(&tensor.content))
            std::memcpy(values.data(), owned->data(), owned->size());
        else
            std::get<checkpoint::Generated>(tensor.content).fill(0, std::as_writable_bytes(std::span(values)));
        stored[tensor.info.name] = std::move(values);
        infos.push_back({tensor.info.name, Dtype::f32, tensor.info.shape});
    }
    std::ranges::sort(infos, {}, &TensorInfo::name);
    EXPECT_EQ(infos, golden.tensors);
    const Headers headers(infos);
    for (const Piece& piece : find_pieces(headers, spec, "published").pieces) {
        float expected = first.at(piece.info.name);
        for (std::int64_t r = 0; r < piece.rows(); ++r)
            for (std::int64_t c = 0; c < piece.columns(); ++c)
                ASSERT_EQ(stored.at(piece.disk->name)[static_cast<std::size_t>(piece.offset + r * piece.row_stride + c * piece.column_stride)], expected++)
                    << piece.info.name;
    }
}

TEST_P(EveryArchitecture, survives_rendering_and_parsing) {
    const io::Json rendered = render_config(spec);
    const ModelSpec again = parse_config(rendered, "rendered");
    EXPECT_EQ(again.num_parameters(), spec.num_parameters());
    EXPECT_EQ(again.num_active_parameters(), spec.num_active_parameters());
    EXPECT_EQ(again.layers, spec.layers);
    EXPECT_EQ(again.rope, spec.rope);
    EXPECT_EQ(again.local_rope, spec.local_rope);
    EXPECT_EQ(again.latent, spec.latent);
    EXPECT_EQ(again.activation, spec.activation);
    EXPECT_EQ(again.rms_norm_eps, spec.rms_norm_eps);
    EXPECT_NEAR(again.attention_scale, spec.attention_scale, 1e-12);
    EXPECT_EQ(rendered["model_type"], golden.config["model_type"]);
}

TEST_P(EveryArchitecture, gives_every_tensor_the_role_its_name_says) {
    for (const TensorSlot& slot : tensor_slots(spec)) {
        const auto says = [&](const char* part) { return slot.name.find(part) != std::string::npos; };
        EXPECT_EQ(slot.role == TensorRole::norm, says("norm.") || says("layernorm.")) << slot.name;
        EXPECT_EQ(slot.role == TensorRole::expert, says(".experts.")) << slot.name;
        EXPECT_EQ(slot.layer >= 0, says(".layers.")) << slot.name;
        if (slot.role == TensorRole::router) {
            EXPECT_THAT(slot.shape, testing::ElementsAre(spec.num_experts, spec.hidden_size)) << slot.name;
        }
    }
}

TEST_P(EveryArchitecture, refuses_missing_and_misshapen_tensors_by_name) {
    const auto refusal = [&](std::vector<TensorInfo> tensors) -> std::string {
        try {
            find_pieces(Headers(std::move(tensors)), spec, "golden");
        } catch (const Error& e) {
            return e.what();
        }
        return "accepted";
    };
    for (std::size_t i = 0; i < golden.tensors.size(); i += 5) {
        std::vector<TensorInfo> tensors = golden.tensors;
        tensors[i].shape[0] += 1;
        EXPECT_THAT(refusal(tensors), testing::HasSubstr("expected [")) << tensors[i].name;
        tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(i));
        EXPECT_THAT(refusal(tensors), testing::HasSubstr("is missing")) << golden.tensors[i].name;
    }
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryArchitecture, testing::ValuesIn(registry().begin(), registry().end()),
                         [](const auto& info) { return std::string(info.param->model_type); });

TEST(Registry, unknown_model_types_hear_of_the_nearest_and_of_all) {
    try {
        find_architecture("gemma_2");
        FAIL();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::unsupported);
        EXPECT_THAT(e.hint(), testing::AllOf(testing::HasSubstr("did you mean \"gemma2\""), testing::HasSubstr("coe_deepseekv2")));
    }
}

}  // namespace
}  // namespace mixwright::arch
