#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>

#include "checkpoint/checkpoint.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/sample_model.h"
#include "checkpoint/shard_index.h"
#include "error.h"

namespace mixwright::checkpoint {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

template <class Action>
std::string message_of(Action action) {
    try {
        action();
    } catch (const Error& e) {
        return e.what();
    }
    return "no error";
}

// ---- the shard index ----------------------------------------------------------------------------------------------

std::string index_refusal(std::string_view text) {
    return message_of([&] { parse_shard_index(text, "index"); });
}

TEST(ShardIndex, refuses_file_names_that_leave_the_directory) {
    for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", ".hidden", "a\\\\b", "a\\u0000b", "a\\nb", "sub/../../x"})
        EXPECT_THAT(index_refusal(std::string(R"({"weight_map":{"t":")") + name + "\"}}"), HasSubstr("is not a plain file name")) << name;
}

TEST(ShardIndex, refuses_what_is_no_index) {
    EXPECT_THAT(index_refusal("[]"), HasSubstr("index: not an object"));
    EXPECT_THAT(index_refusal("{}"), HasSubstr("\"weight_map\" is missing"));
    EXPECT_THAT(index_refusal(R"({"weight_map":[]})"), HasSubstr("\"weight_map\" is not an object"));
    EXPECT_THAT(index_refusal(R"({"weight_map":{"t":1}})"), HasSubstr("the file of t is not a string"));
    EXPECT_THAT(index_refusal(R"({"weight_map":{"t":"a","t":"b"}})"), HasSubstr("occurs twice"));
    EXPECT_THAT(index_refusal(R"({"weight_map":{"t":"a"})"), HasSubstr("not valid JSON"));
}

class ShardedModel : public testing::Test {
protected:
    void write_index(const std::string& map) { write_text(directory / "model.safetensors.index.json", R"({"weight_map":)" + map + "}"); }
    TemporaryDirectory directory;
};

TEST_F(ShardedModel, every_entry_must_be_in_the_file_it_names) {
    write_text(directory / "one.safetensors", sample_safetensors());
    write_index(R"({"a":"one.safetensors","b":"one.safetensors","c":"one.safetensors"})");
    EXPECT_EQ(open_safetensors(directory.path())->tensors().size(), 3u);
    write_index(R"({"a":"one.safetensors","z":"one.safetensors"})");
    EXPECT_THAT(message_of([&] { open_safetensors(directory.path()); }), HasSubstr("tensor z is not in one.safetensors"));
    write_index(R"({"a":"two.safetensors"})");
    EXPECT_THAT(message_of([&] { open_safetensors(directory.path()); }), HasSubstr("shard two.safetensors is missing"));
}

TEST_F(ShardedModel, a_tensor_that_two_shards_hold_is_read_from_the_one_the_index_names) {
    write_text(directory / "one.safetensors", safetensors_bytes(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "1"));
    write_text(directory / "two.safetensors", safetensors_bytes(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"u":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "23"));
    write_index(R"({"t":"one.safetensors","u":"two.safetensors"})");
    const auto source = open_safetensors(directory.path());
    EXPECT_EQ(source->bytes(source->at("t")).bytes[0], std::byte{'1'});
    std::byte byte{};
    source->read(source->at("u"), 0, {&byte, 1});
    EXPECT_EQ(byte, std::byte{'3'});
}

TEST_F(ShardedModel, reads_stay_inside_a_tensor) {
    write_text(directory / "model.safetensors", sample_safetensors());
    const auto source = open_safetensors(directory.path());
    std::array<std::byte, 9> buffer{};
    EXPECT_THROW(source->read(source->at("b"), 0, buffer), Error);
    EXPECT_THROW(source->read(source->at("b"), 9, {buffer.data(), 0}), Error);
    EXPECT_NO_THROW(source->read(source->at("b"), 1, {buffer.data(), 7}));
}

TEST_F(ShardedModel, a_file_that_shrinks_while_open_is_an_error_and_no_signal) {
    write_text(directory / "model.safetensors", sample_safetensors());
    const auto source = open_safetensors(directory.path());
    fs::resize_file(directory / "model.safetensors", 100);
    std::array<std::byte, 8> buffer{};
    EXPECT_THAT(message_of([&] { source->read(source->at("b"), 0, buffer); }), HasSubstr("more were expected"));
    EXPECT_THAT(message_of([&] { source->bytes(source->at("b")); }), HasSubstr("cut short while it was in use"));
}

// ---- names of models ----------------------------------------------------------------------------------------------

TEST(HubName, is_split_into_repository_and_revision) {
    EXPECT_EQ(parse_hub_name("org/name")->repository, "org/name");
    EXPECT_EQ(parse_hub_name("org/name")->revision, "main");
    EXPECT_EQ(parse_hub_name("gpt2@refs/pr/1")->revision, "refs/pr/1");
    for (const char* wrong : {"", "/", "a/b/c", "../b", "a/..", "a//b", "-a/b", "a/.b", "a b/c", "a/b@", "a/b@../x", "a/b@/x", "a--b/c", "a/b\n"})
        EXPECT_FALSE(parse_hub_name(wrong)) << wrong;
}

class HubCache : public testing::Test {
protected:
    HubCache() { ::setenv("HF_HUB_CACHE", directory.path().c_str(), 1); }
    ~HubCache() override { ::unsetenv("HF_HUB_CACHE"); }
    const std::string commit = std::string(40, 'a');
    TemporaryDirectory directory;
};

TEST_F(HubCache, names_are_found_by_branch_and_by_commit) {
    write_text(directory / "models--org--name/refs/main", commit + "\n");
    write_text(directory / ("models--org--name/snapshots/" + commit + "/config.json"), R"({"model_type":"llama"})");
    write_text(directory / ("models--org--name/snapshots/" + commit + "/model.safetensors"), sample_safetensors());
    EXPECT_EQ(resolve_model("org/name").filename(), commit);
    EXPECT_EQ(resolve_model("org/name@" + commit).filename(), commit);
    EXPECT_EQ(open_checkpoint("org/name").tensors->tensors().size(), 3u);
    EXPECT_THAT(message_of([&] { resolve_model("org/name@v2"); }), HasSubstr("revision v2 is not in the hub cache " + directory.path().string()));
}

TEST_F(HubCache, what_is_missing_is_said_with_the_places_looked_at) {
    EXPECT_THAT(message_of([&] { resolve_model("org/name"); }), HasSubstr("org/name: no such path, and org/name: not in the hub cache " + directory.path().string()));
    EXPECT_THAT(message_of([&] { resolve_model("./nowhere"); }), HasSubstr("./nowhere: no such file or directory"));
    write_text(directory / "models--org--name/refs/main", "../../../etc");
    EXPECT_THAT(message_of([&] { resolve_model("org/name"); }), HasSubstr("not a commit"));
}

TEST(OpenCheckpoint, a_directory_without_weights_or_config_is_refused_by_name) {
    const TemporaryDirectory directory;
    EXPECT_THAT(message_of([&] { open_checkpoint(directory.path().string()); }), HasSubstr("no weights in this directory"));
    write_text(directory / "model.safetensors", sample_safetensors());
    EXPECT_THAT(message_of([&] { open_checkpoint(directory.path().string()); }), HasSubstr("config.json is missing"));
    write_text(directory / "config.json", "[]");
    EXPECT_THAT(message_of([&] { open_checkpoint(directory.path().string()); }), HasSubstr("config.json: not an object"));
}

}  // namespace
}  // namespace mixwright::checkpoint
