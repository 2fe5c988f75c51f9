// Journal, staged directory, SHA-256: what outputs are made with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "error.h"
#include "io/file.h"
#include "io/journal.h"
#include "io/sha256.h"
#include "io/staged_directory.h"
#include "temporary_directory.h"

namespace mixwright::io {
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

TEST(Sha256, gives_the_digests_of_the_standard) {
    EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    Sha256 hash;
    hash.update("a");
    hash.update("bc");
    EXPECT_EQ(hash.hex(), sha256("abc"));
}

TEST(Journal, lines_are_there_when_it_is_opened_again) {
    const TemporaryDirectory directory;
    {
        Journal journal = Journal::open(directory / "j");
        journal.append({{"n", 1}});
        journal.append({{"n", 2}});
    }
    Journal journal = Journal::open(directory / "j");
    ASSERT_EQ(journal.lines().size(), 2u);
    EXPECT_EQ(journal.lines()[1]["n"], 2);
}

TEST(Journal, every_cut_leaves_the_whole_lines_before_it) {
    const TemporaryDirectory directory;
    Journal::open(directory / "j").append({{"n", 1}});
    Journal::open(directory / "j").append({{"n", 2}});
    const std::string whole = read_text(directory / "j");
    for (std::size_t length = 0; length <= whole.size(); ++length) {
        write_text(directory / "cut", whole.substr(0, length));
        Journal journal = Journal::open(directory / "cut");
        ASSERT_EQ(journal.lines().size(), length == whole.size() ? 2u : length > whole.find('\n') ? 1u : 0u) << length;
        journal.append({{"n", 9}});  // takes the place of the torn line
        EXPECT_EQ(Journal::open(directory / "cut.copy").lines().size(), 0u);
    }
    write_text(directory / "cut", whole.substr(0, whole.size() - 1));
    Journal::open(directory / "cut").append({{"n", 9}});
    EXPECT_EQ(Journal::open(directory / "cut").lines().back()["n"], 9);
}

TEST(Journal, is_held_by_one_at_a_time) {
    const TemporaryDirectory directory;
    const Journal journal = Journal::open(directory / "j");
    EXPECT_THAT(message_of([&] { Journal::open(directory / "j"); }), HasSubstr("another process is writing this output"));
}

TEST(Journal, follows_no_link) {
    const TemporaryDirectory directory;
    write_text(directory / "victim", "precious");
    fs::create_symlink(directory / "victim", directory / "j");
    EXPECT_THAT(message_of([&] { Journal::open(directory / "j"); }), HasSubstr("cannot create"));
    EXPECT_EQ(read_text(directory / "victim"), "precious");
}

TEST(StagedDirectory, appears_when_it_is_committed) {
    const TemporaryDirectory directory;
    const fs::path out = output_path(directory / "out");
    StagedDirectory staged(out);
    staged.write("a", std::as_bytes(std::span("x", 1)));
    EXPECT_FALSE(fs::exists(out));
    EXPECT_EQ(staged.entries(), std::vector<std::string>{"a"});
    staged.commit(false);
    EXPECT_EQ(read_text(out / "a"), "x");
    EXPECT_FALSE(fs::exists(directory / "out.partial"));
}

TEST(StagedDirectory, is_no_model_while_an_interrupted_run_goes_on) {
    const TemporaryDirectory directory;
    write_text(directory / "out.partial/config.json", "{}");
    write_text(directory / "out.partial/shard", "kept");
    const StagedDirectory staged(output_path(directory / "out"));
    EXPECT_EQ(staged.entries(), std::vector<std::string>{"shard"});
}

TEST(StagedDirectory, discards_nothing_behind_a_link) {
    const TemporaryDirectory directory;
    write_text(directory / "elsewhere/config.json", "{}");
    fs::create_symlink(directory / "elsewhere", directory / "out.partial");
    StagedDirectory::discard(output_path(directory / "out"));
    EXPECT_FALSE(fs::exists(fs::symlink_status(directory / "out.partial")));
    EXPECT_TRUE(fs::exists(directory / "elsewhere/config.json"));
}

TEST(StagedDirectory, never_takes_the_place_of_what_appeared_meanwhile) {
    const TemporaryDirectory directory;
    StagedDirectory staged(output_path(directory / "out"));
    fs::create_directory(directory / "out");  // empty: a plain rename would replace it
    EXPECT_THAT(message_of([&] { staged.commit(false); }), HasSubstr("appeared while the output was written"));
    EXPECT_TRUE(fs::exists(directory / "out.partial"));
}

TEST(StagedDirectory, follows_no_link_that_lies_in_its_place) {
    const TemporaryDirectory directory;
    fs::create_directory(directory / "elsewhere");
    fs::create_symlink(directory / "elsewhere", directory / "out.partial");
    EXPECT_THAT(message_of([&] { StagedDirectory(output_path(directory / "out")); }), HasSubstr("out.partial"));
    write_text(directory / "two.partial/x", "");
    write_text(directory / "victim", "precious");
    fs::create_symlink(directory / "victim", directory / "two.partial/file.tmp");
    StagedDirectory staged(output_path(directory / "two"));
    staged.write("file", std::as_bytes(std::span("new", 3)));
    EXPECT_EQ(read_text(directory / "victim"), "precious");
}

TEST(OutputPath, is_absolute_and_knows_its_parent) {
    const TemporaryDirectory directory;
    EXPECT_EQ(output_path(directory.path() / "a/../out/"), fs::canonical(directory.path()) / "out");
    EXPECT_THAT(message_of([&] { output_path(directory.path() / "missing/out"); }), HasSubstr("its parent directory is not there"));
    EXPECT_THAT(message_of([&] { output_path("/"); }), HasSubstr("not an output directory"));
}

TEST(File, pipes_and_directories_are_no_files) {
    const TemporaryDirectory directory;
    ASSERT_EQ(::mkfifo((directory / "pipe").c_str(), 0600), 0);
    EXPECT_THAT(message_of([&] { File::open(directory / "pipe"); }), HasSubstr("not a regular file"));
    EXPECT_THAT(message_of([&] { File::open(directory.path()); }), HasSubstr("not a regular file"));
    EXPECT_THAT(message_of([&] { read_file(directory / "none", 10); }), HasSubstr("cannot open: No such file"));
    write_text(directory / "long", "0123456789a");
    EXPECT_THAT(message_of([&] { read_file(directory / "long", 10); }), HasSubstr("too large (got 11 bytes, limit 10)"));
}

}  // namespace
}  // namespace mixwright::io
