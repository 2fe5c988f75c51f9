#include "data/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "error.h"
#include "temporary_directory.h"

namespace mixwright::data {
namespace {

using testing::HasSubstr;

void write(const std::filesystem::path& path, std::string_view text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

std::string message_of(const std::filesystem::path& path) {
    try {
        read_documents(path);
    } catch (const Error& error) {
        return error.message();
    }
    return "nothing was thrown";
}

TEST(Documents, counts_the_loss_on_answers_only) {
    const TemporaryDirectory folder;
    const auto file = folder.path() / "mixed.jsonl";
    write(file, R"({"text": "all"}
{"prompt": "a", "completion": "b"}

{"question": "1+1?", "answer": "2"})");
    const auto documents = read_documents(file);
    ASSERT_EQ(documents.size(), 3u);
    EXPECT_EQ(documents[0].segments, (std::vector<Segment>{{"all", true}}));
    EXPECT_EQ(documents[1].segments, (std::vector<Segment>{{"a", false}, {"b", true}}));
    EXPECT_EQ(documents[2].segments, (std::vector<Segment>{{"Question: 1+1?\nAnswer:", false}, {" 2", true}}));
    EXPECT_THAT(documents[2].place, HasSubstr("mixed.jsonl:4"));
}

TEST(Documents, reads_a_folder_in_the_order_of_names_without_hidden_and_binary_files) {
    const TemporaryDirectory folder;
    write(folder.path() / "b.txt", "second");
    write(folder.path() / "a" / "x.jsonl", R"({"text": "first"})");
    write(folder.path() / ".git" / "config", "hidden");
    write(folder.path() / "c.bin", std::string_view("zero\0byte", 9));
    const auto documents = read_documents(folder.path());
    ASSERT_EQ(documents.size(), 2u);
    EXPECT_EQ(documents[0].text(), "first");
    EXPECT_EQ(documents[1].text(), "second");
}

TEST(Documents, refuses_with_file_and_line) {
    const TemporaryDirectory folder;
    const auto file = folder.path() / "data.jsonl";
    const auto refusal = [&](std::string_view text) {
        write(file, text);
        return message_of(file);
    };
    EXPECT_THAT(refusal("{\"text\": \"ok\"}\n{\"texts\": \"no\"}"), HasSubstr("data.jsonl:2: no known key"));
    EXPECT_THAT(refusal("{\"prompt\": \"a\"}"), HasSubstr("data.jsonl:1: `completion` is missing"));
    EXPECT_THAT(refusal("{\"text\": 5}"), HasSubstr("data.jsonl:1: `text` is no text"));
    EXPECT_THAT(refusal("[1]"), HasSubstr("data.jsonl:1: not a JSON object"));
    EXPECT_THAT(refusal("{\"messages\": []}"), HasSubstr("chat template"));
    EXPECT_THAT(refusal("\n\n"), HasSubstr("no text in it"));
    EXPECT_THAT(message_of(folder.path() / "absent.txt"), HasSubstr("absent.txt"));
    write(folder.path() / "model.bin", std::string_view("\0\1", 2));
    EXPECT_THAT(message_of(folder.path() / "model.bin"), HasSubstr("not a text file"));
}

}  // namespace
}  // namespace mixwright::data
