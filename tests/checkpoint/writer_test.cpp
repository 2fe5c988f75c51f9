#include "checkpoint/writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/checkpoint.h"
#include "checkpoint/convert.h"
#include "checkpoint/sample_model.h"
#include "error.h"

namespace mixwright::checkpoint {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

class Writer : public testing::Test {
protected:
    Writer() {
        write_text(directory / "in/model.safetensors", sample_safetensors());
        write_text(directory / "in/config.json", R"({"model_type":"llama"})");
        source = open_safetensors(directory / "in");
    }

    std::string refusal(const OutputPlan& plan, const fs::path& out, const WriteOptions& options = {}) {
        try {
            write_model(plan, out, options);
        } catch (const Error& e) {
            return e.what();
        }
        return "written";
    }

    bool nothing_left() const { return !fs::exists(directory / "out") && !fs::exists(directory / "out.partial") && !fs::exists(directory / "out.partial.journal"); }

    TemporaryDirectory directory;
    std::shared_ptr<const TensorSource> source;
};

TEST_F(Writer, a_copy_holds_the_same_bytes_under_the_new_names) {
    const OutputPlan plan = copy_plan(source, 2);
    const WriteResult result = write_model(plan, directory / "out", {});
    const Checkpoint written = open_checkpoint((directory / "out").string());
    ASSERT_EQ(written.tensors->tensors().size(), 6u);
    for (const TensorInfo& info : source->tensors()) {
        const TensorBytes before = source->bytes(info), after = written.tensors->bytes(written.tensors->at("layers.1." + info.name));
        EXPECT_TRUE(std::ranges::equal(before.bytes, after.bytes)) << info.name;
    }
    std::uint64_t bytes = 0;
    for (const auto& [name, text] : directory_contents(directory / "out")) bytes += text.size();
    EXPECT_EQ(result.bytes, bytes);
    EXPECT_EQ(plan_layout(plan, 5'000'000'000).bytes, bytes);
    EXPECT_FALSE(fs::exists(directory / "out.partial"));
    EXPECT_FALSE(fs::exists(directory / "out.partial.journal"));
}

TEST_F(Writer, shards_are_cut_by_size_and_indexed) {
    const OutputPlan plan = copy_plan(source, 4);
    write_model(plan, directory / "out", {.shard_bytes = 30});
    const Checkpoint written = open_checkpoint((directory / "out").string());
    EXPECT_EQ(written.tensors->tensors().size(), 12u);
    EXPECT_TRUE(fs::exists(directory / "out/model-00001-of-00004.safetensors"));
    EXPECT_EQ(io::read_json(directory / "out/model.safetensors.index.json")["metadata"]["total_size"], 96);
}

TEST_F(Writer, a_tensor_larger_than_a_shard_gets_one_of_its_own) {
    write_model(copy_plan(source, 1), directory / "out", {.shard_bytes = 1});
    EXPECT_EQ(open_checkpoint((directory / "out").string()).tensors->tensors().size(), 3u);
    EXPECT_TRUE(fs::exists(directory / "out/model-00003-of-00003.safetensors"));
}

TEST_F(Writer, pieces_are_stacked_scaled_and_converted) {
    OutputPlan plan;
    const TensorInfo& b = source->at("b");
    plan.tensors.push_back({{"stacked", Dtype::f32, {2, 4}}, Pieces{{source, b}, {source, b, 2.0}}});
    plan.config = "{}";
    write_model(plan, directory / "out", {});
    const auto written = open_safetensors(directory / "out");
    std::vector<float> values(8), expected(4);
    to_float(written->bytes(written->at("stacked")).bytes, Dtype::f32, values);
    to_float(source->bytes(b).bytes, Dtype::bf16, expected);
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(values[i], expected[i]);
        EXPECT_EQ(values[4 + i], 2 * expected[i]);
    }
}

TEST_F(Writer, noise_has_the_asked_deviation_and_depends_on_seed_and_element_only) {
    const std::size_t count = 300'000;
    write_text(directory / "zeros/model.safetensors",
               safetensors_bytes(R"({"z":{"dtype":"F32","shape":[300000],"data_offsets":[0,1200000]}})", std::string(4 * count, '\0')));
    const auto zeros = open_safetensors(directory / "zeros");
    const auto noisy = [&](const std::string& out, std::uint64_t seed, int copies) {
        OutputPlan plan;
        Pieces pieces;
        for (int i = 0; i < copies; ++i) pieces.push_back({zeros, zeros->at("z"), 1.0, 0.5, seed});
        plan.tensors.push_back({{"z", Dtype::f32, {copies, static_cast<std::int64_t>(count)}}, pieces});
        write_model(plan, directory / out, {});
        const auto written = open_safetensors(directory / out);
        std::vector<float> values(count * static_cast<std::size_t>(copies));
        to_float(written->bytes(written->at("z")).bytes, Dtype::f32, values);
        return values;
    };
    const std::vector<float> one = noisy("n1", 1, 1), both = noisy("n2", 1, 2), other = noisy("n3", 2, 1);
    double sum = 0, squares = 0;
    for (const float v : one) sum += v, squares += static_cast<double>(v) * v;
    EXPECT_NEAR(sum / count, 0, 0.005);
    EXPECT_NEAR(std::sqrt(squares / count), 0.5, 0.005);
    EXPECT_TRUE(std::equal(one.begin(), one.end(), both.begin()));
    EXPECT_NE(one, other);
    EXPECT_FALSE(std::equal(one.begin(), one.end(), both.begin() + count));
}

TEST_F(Writer, generated_tensors_larger_than_the_buffers_arrive_whole) {
    const std::size_t count = 5'000'011;
    OutputPlan plan;
    plan.tensors.push_back({{"g", Dtype::u64, {static_cast<std::int64_t>(count)}},
                            Generated{[](std::uint64_t offset, std::span<std::byte> out) {
                                          for (std::size_t i = 0; i < out.size(); i += 8) {
                                              const std::uint64_t value = (offset + i) / 8 * 0x9E3779B97F4A7C15;
                                              std::memcpy(&out[i], &value, 8);
                                          }
                                      },
                                      "counter"}});
    plan.tensors.push_back({{"owned", Dtype::u8, {3}}, OwnedBytes{std::byte{1}, std::byte{2}, std::byte{3}}});
    write_model(plan, directory / "out", {});
    const auto written = open_safetensors(directory / "out");
    const TensorBytes bytes = written->bytes(written->at("g"));
    ASSERT_EQ(bytes.bytes.size(), count * 8);
    for (std::size_t i = 0; i < count; ++i) {
        std::uint64_t value;
        std::memcpy(&value, &bytes.bytes[i * 8], 8);
        ASSERT_EQ(value, i * 0x9E3779B97F4A7C15);
    }
    EXPECT_EQ(written->bytes(written->at("owned")).bytes[2], std::byte{3});
}

// What is computed layer after layer would begin again for each layer that comes too early: by name 10 stands before 2.
TEST_F(Writer, tensors_are_made_in_the_order_of_the_plan) {
    constexpr int layers = 12;
    OutputPlan plan = copy_plan(source);
    std::vector<int> made;
    for (int i = 0; i < layers; ++i)
        plan.tensors.push_back({{"model.layers." + std::to_string(i) + ".w", Dtype::bf16, {2}},
                                Generated{[&made, i](std::uint64_t, std::span<std::byte> out) {
                                              std::ranges::fill(out, std::byte(i));
                                              made.push_back(i);
                                          },
                                          "layer"}});
    write_model(plan, directory / "out", {});
    ASSERT_EQ(made.size(), static_cast<std::size_t>(layers));
    EXPECT_TRUE(std::ranges::is_sorted(made));
    const Checkpoint written = open_checkpoint((directory / "out").string());
    for (int i = 0; i < layers; ++i) {
        const TensorBytes bytes = written.tensors->bytes(written.tensors->at("model.layers." + std::to_string(i) + ".w"));
        EXPECT_TRUE(std::ranges::all_of(bytes.bytes, [i](std::byte b) { return b == std::byte(i); }));
    }
}

TEST_F(Writer, an_output_that_exists_is_kept_without_force) {
    write_text(directory / "out/config.json", "mine");
    EXPECT_THAT(refusal(copy_plan(source), directory / "out"), HasSubstr("is there already"));
    EXPECT_EQ(read_text(directory / "out/config.json"), "mine");
    EXPECT_EQ(refusal(copy_plan(source), directory / "out", {.force = true}), "written");
    EXPECT_EQ(open_checkpoint((directory / "out").string()).tensors->tensors().size(), 3u);
    EXPECT_FALSE(fs::exists(directory / "out.partial"));
}

TEST_F(Writer, force_replaces_models_only) {
    write_text(directory / "out/thesis.tex", "mine");
    EXPECT_THAT(refusal(copy_plan(source), directory / "out", {.force = true}), HasSubstr("is no model, --force does not replace it"));
    EXPECT_EQ(read_text(directory / "out/thesis.tex"), "mine");
}

TEST_F(Writer, surgery_in_place_is_refused_without_force_and_right_with_it) {
    OutputPlan plan = copy_plan(source);
    plan.inputs = {directory / "in"};
    const std::string before = read_text(directory / "in/model.safetensors");
    EXPECT_THAT(refusal(plan, directory / "in"), HasSubstr("is there already"));
    EXPECT_EQ(read_text(directory / "in/model.safetensors"), before);
    const TensorBytes old_bytes = source->bytes(source->at("a"));
    EXPECT_EQ(refusal(plan, directory / "in", {.force = true}), "written");
    const auto written = open_safetensors(directory / "in");
    EXPECT_TRUE(std::ranges::equal(written->bytes(written->at("layers.0.a")).bytes, old_bytes.bytes));
}

TEST_F(Writer, an_output_inside_an_input_or_around_it_is_refused) {
    OutputPlan plan = copy_plan(source);
    plan.inputs = {directory / "in"};
    EXPECT_THAT(refusal(plan, directory / "in/out"), HasSubstr("lies inside the input"));
    fs::create_directory_symlink(directory / "in", directory / "link");
    EXPECT_THAT(refusal(plan, directory / "link/out"), HasSubstr("lies inside the input"));
    write_text(directory / "around/config.json", "{}");
    fs::rename(directory / "in", directory / "around/in");
    plan.inputs = {directory / "around/in"};
    EXPECT_THAT(refusal(plan, directory / "around", {.force = true}), HasSubstr("holds the input"));
    EXPECT_TRUE(fs::exists(directory / "around/in/model.safetensors"));
}

TEST_F(Writer, too_little_disk_is_found_before_a_byte_is_written) {
    OutputPlan plan;
    plan.tensors.push_back({{"huge", Dtype::f32, {1'000'000'000, 1'000'000}}, Generated{[](std::uint64_t, std::span<std::byte>) {}, "x"}});
    const std::string message = refusal(plan, directory / "out");
    EXPECT_THAT(message, HasSubstr("are free"));
    EXPECT_TRUE(nothing_left());
}

TEST_F(Writer, plans_that_do_not_add_up_are_our_bug) {
    OutputPlan plan = copy_plan(source);
    plan.tensors[0].info.shape = {7};
    EXPECT_THAT(refusal(plan, directory / "out"), HasSubstr("its pieces have 6 elements, shape [7] has 7"));
    plan = copy_plan(source);
    plan.tensors.push_back(plan.tensors[0]);
    EXPECT_THAT(refusal(plan, directory / "out"), HasSubstr("two tensors of the output are called layers.0.a"));
    plan = copy_plan(source);
    plan.files.push_back({"../evil", std::string("x")});
    EXPECT_THAT(refusal(plan, directory / "out"), HasSubstr("is no name for an output file"));
    EXPECT_TRUE(nothing_left());
}

TEST_F(Writer, a_staging_directory_of_someone_else_is_left_alone) {
    write_text(directory / "out.partial/letter.txt", "dear");
    EXPECT_THAT(refusal(copy_plan(source), directory / "out"), HasSubstr("was not left by an interrupted run"));
    EXPECT_EQ(read_text(directory / "out.partial/letter.txt"), "dear");
}

TEST_F(Writer, sizes_are_read_with_their_units) {
    EXPECT_EQ(parse_byte_size("5GB"), 5'000'000'000u);
    EXPECT_EQ(parse_byte_size("2GiB"), 2u << 30);
    EXPECT_EQ(parse_byte_size("77"), 77u);
    for (const char* wrong : {"", "GB", "0", "-1", "5 GB", "5gb", "99999999TB", "1e9"}) EXPECT_THROW(parse_byte_size(wrong), Error) << wrong;
}

// ---- interruption and resumption --------------------------------------------------------------------------------

// A plan of `copies` shards whose last tensor throws when `fail` is set.
OutputPlan breakable_plan(const std::shared_ptr<const TensorSource>& source, const bool& fail) {
    OutputPlan plan = copy_plan(source, 3);
    plan.tensors.push_back({{"z", Dtype::u8, {4}}, Generated{[&fail](std::uint64_t, std::span<std::byte> out) {
                                                                 if (fail) throw Error(ErrorCode::failed, "broken");
                                                                 std::ranges::fill(out, std::byte{7});
                                                             },
                                                             "sevens"}});
    return plan;
}

TEST_F(Writer, resuming_keeps_finished_shards_and_gives_the_same_bytes) {
    bool fail = false;
    const OutputPlan plan = breakable_plan(source, fail);
    const WriteOptions small{.shard_bytes = 24};
    write_model(plan, directory / "whole", small);
    fail = true;
    EXPECT_EQ(refusal(plan, directory / "out", small), "broken");
    EXPECT_FALSE(fs::exists(directory / "out"));
    EXPECT_FALSE(fs::exists(directory / "out.partial/config.json"));
    EXPECT_TRUE(fs::exists(directory / "out.partial/model-00003-of-00004.safetensors"));
    fail = false;
    const WriteResult result = write_model(plan, directory / "out", {.shard_bytes = 24, .resume = true});
    EXPECT_GT(result.resumed_bytes, 0u);
    EXPECT_EQ(directory_contents(directory / "out"), directory_contents(directory / "whole"));
}

TEST_F(Writer, a_shard_that_changed_since_is_written_again) {
    bool fail = true;
    const OutputPlan plan = breakable_plan(source, fail);
    EXPECT_EQ(refusal(plan, directory / "out", {.shard_bytes = 24}), "broken");
    std::string shard = read_text(directory / "out.partial/model-00002-of-00004.safetensors");
    shard.back() = static_cast<char>(shard.back() ^ 1);
    write_text(directory / "out.partial/model-00002-of-00004.safetensors", shard);
    fail = false;
    write_model(plan, directory / "out", {.shard_bytes = 24, .resume = true});
    write_model(plan, directory / "whole", {.shard_bytes = 24});
    EXPECT_EQ(directory_contents(directory / "out"), directory_contents(directory / "whole"));
}

TEST_F(Writer, another_plan_starts_again) {
    bool fail = true;
    OutputPlan plan = breakable_plan(source, fail);
    EXPECT_EQ(refusal(plan, directory / "out", {.shard_bytes = 24}), "broken");
    fail = false;
    std::get<Pieces>(plan.tensors[0].content)[0].scale = 2;
    const WriteResult result = write_model(plan, directory / "out", {.shard_bytes = 24, .resume = true});
    EXPECT_EQ(result.resumed_bytes, 0u);
}

}  // namespace
}  // namespace mixwright::checkpoint
