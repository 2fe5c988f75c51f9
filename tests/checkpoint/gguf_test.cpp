#include "checkpoint/gguf.h"

#include <ggml.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <random>

#include "checkpoint/gguf_builder.h"
#include "checkpoint/gguf_header.h"
#include "error.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::GgufBuilder;
using testing::write_file;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using B = GgufBuilder;

GgufHeader parse(const std::string& bytes) { return parse_gguf_header(std::as_bytes(std::span(bytes)), "m.gguf"); }

class Folder {
public:
    Folder() : path_(fs::temp_directory_path() / ("mixwright-gguf-" + std::to_string(std::random_device{}()))) { fs::create_directories(path_); }
    ~Folder() { fs::remove_all(path_); }
    fs::path operator/(const std::string& name) const { return path_ / name; }

private:
    fs::path path_;
};

std::vector<float> floats_of(const TensorBytes& bytes) {
    std::vector<float> values(bytes.bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.bytes.data(), bytes.bytes.size());
    return values;
}

B minimal() {
    B b;
    b.words("general.architecture", "llama").floats("a", {4, 2}, {0, 1, 2, 3, 4, 5, 6, 7});
    return b;
}

TEST(GgufHeader, ReadsEveryKindOfValue) {
    B b;
    b.key("u8", B::u8, B::raw<std::uint8_t>(200)).key("i8", B::i8, B::raw<std::int8_t>(-3)).key("u16", B::u16, B::raw<std::uint16_t>(60000));
    b.key("i16", B::i16, B::raw<std::int16_t>(-300)).key("i32", B::i32, B::raw<std::int32_t>(-70000)).key("f32", B::f32, B::raw(1.5f));
    b.key("yes", B::boolean, std::string(1, '\1')).key("u64", B::u64, B::raw<std::uint64_t>(1ull << 63)).key("i64", B::i64, B::raw<std::int64_t>(-5));
    b.key("f64", B::f64, B::raw(2.25)).words("text", "\xe2\x82\xac").key("list", B::array, B::raw(B::string) + B::raw<std::uint64_t>(2) + B::text("x") + B::text("y"));
    const io::Json m = parse(b.bytes()).metadata;
    EXPECT_EQ(m, (io::Json{{"u8", 200}, {"i8", -3}, {"u16", 60000}, {"i16", -300}, {"i32", -70000}, {"f32", 1.5}, {"yes", true},
                           {"u64", 1ull << 63}, {"i64", -5}, {"f64", 2.25}, {"text", "\xe2\x82\xac"}, {"list", {"x", "y"}}}));
}

TEST(GgufHeader, GivesShapesInRowMajorOrder) {
    const GgufHeader header = parse(minimal().bytes());
    ASSERT_EQ(header.tensors.size(), 1u);
    EXPECT_THAT(header.tensors[0].shape, ElementsAre(2, 4));
    EXPECT_EQ(header.tensors[0].bytes, 32u);
}

struct Malformed {
    const char* what;
    std::function<std::string()> bytes;
    const char* message;
};

std::string with(const std::function<void(B&)>& change) {
    B b = minimal();
    change(b);
    return b.bytes();
}

std::string one_tensor(const std::vector<std::uint64_t>& ne, std::uint32_t type, std::size_t bytes = 64, std::int64_t offset = -1) {
    return B().tensor("t", ne, type, std::string(bytes, '\0'), offset).bytes();
}

std::string one_key(std::uint32_t type, const std::string& value) { return B().key("k", type, value).bytes(); }

std::string array_of(std::uint32_t type, std::uint64_t length, const std::string& elements = {}) {
    return one_key(B::array, B::raw(type) + B::raw(length) + elements);
}

std::string cut(std::size_t length) { return minimal().bytes().substr(0, length); }

const Malformed malformed[] = {
    {"empty file", [] { return std::string(); }, "the magic runs past the end"},
    {"wrong magic", [] { return with([](B& b) { b.magic = "GGML"; }); }, "not a GGUF file"},
    {"control bytes in the magic", [] { return with([](B& b) { b.magic = "\x1b[2J"; }); }, "\\x1b[2J"},
    {"version 1", [] { return with([](B& b) { b.version = 1; }); }, "GGUF version 1"},
    {"version of the future", [] { return with([](B& b) { b.version = 99; }); }, "GGUF version 99"},
    {"version 0", [] { return with([](B& b) { b.version = 0; }); }, "GGUF version 0"},
    {"big-endian", [] { return with([](B& b) { b.version = 0x03000000; }); }, "big-endian"},
    {"cut in the version", [] { return cut(6); }, "the version runs past the end"},
    {"cut in the counts", [] { return cut(14); }, "the number of tensors runs past the end"},
    {"cut in the second count", [] { return cut(20); }, "the number of metadata keys runs past the end"},
    {"cut in a key", [] { return cut(36); }, "a metadata key runs past the end"},
    {"cut in the tensor list", [] { return minimal().header().substr(0, minimal().header().size() - 4); }, "a tensor offset runs past the end"},
    {"cut in the data", [] { const auto s = minimal().bytes(); return s.substr(0, s.size() - 1); }, "its data lies outside the file"},
    {"only the header", [] { return minimal().header(); }, "its data lies outside the file"},
    {"too many tensors", [] { return with([](B& b) { b.extra_tensors = 1 << 30; }); }, "too many tensors"},
    {"a negative number of tensors", [] { return with([](B& b) { b.extra_tensors = -3; }); }, "too many tensors"},
    {"too many keys", [] { return with([](B& b) { b.extra_keys = 1 << 30; }); }, "too many metadata keys"},
    {"more keys than there are", [] { return B().integer("a", 1).bytes().substr(0, 0) + with([](B& b) { b.extra_keys = 5; }); }, "m.gguf: at byte"},
    {"more tensors than there are", [] { return with([](B& b) { b.extra_tensors = 4; }); }, "m.gguf: at byte"},
    {"a key of 2^63 bytes", [] { return B().raw_key(B::raw<std::uint64_t>(1ull << 63)).bytes(); }, "a metadata key is too long"},
    {"a key over the limit", [] { return B().integer(std::string(1025, 'k'), 1).bytes(); }, "too long (got 1025 bytes, limit 1024)"},
    {"a key without a name", [] { return B().integer("", 1).bytes(); }, "a metadata key is empty"},
    {"a key with a zero byte", [] { return B().integer(std::string("a\0b", 3), 1).bytes(); }, "holds a zero byte"},
    {"a key twice", [] { return B().integer("a", 1).integer("a", 2).bytes(); }, "key a occurs twice"},
    {"an unknown value type", [] { return one_key(13, B::raw(0)); }, "unknown value type (got 13"},
    {"a value type of 2^32 - 1", [] { return one_key(0xffffffffu, B::raw(0)); }, "unknown value type"},
    {"a boolean of 2", [] { return one_key(B::boolean, std::string(1, '\2')); }, "neither 0 nor 1"},
    {"a string past the end", [] { return one_key(B::string, B::raw<std::uint64_t>(1000)); }, "a string value runs past the end"},
    {"a string of 2^64 - 1 bytes", [] { return one_key(B::string, B::raw(~std::uint64_t{0})); }, "a string value is too long"},
    {"an array past the end", [] { return array_of(B::u32, 1000); }, "an array of 1000 elements runs past the end"},
    {"an array over the limit", [] { return array_of(B::u8, 1u << 30); }, "the array is too long"},
    {"an array of 2^64 - 1", [] { return array_of(B::u64, ~std::uint64_t{0}); }, "the array is too long"},
    {"an array of unknown elements", [] { return array_of(77, 1); }, "unknown value type (got 77"},
    {"arrays within arrays within arrays",
     [] {
         const std::string inner = B::raw(B::u8) + B::raw<std::uint64_t>(1) + "x";
         const std::string middle = B::raw(B::array) + B::raw<std::uint64_t>(1) + inner;
         return array_of(B::array, 1, middle + std::string(64, '\0'));
     },
     "nested deeper than 2"},
    {"a string in an array past the end", [] { return array_of(B::string, 1, B::raw<std::uint64_t>(900)); }, "a string value runs past the end"},
    {"an alignment of 0", [] { return with([](B& b) { b.integer("general.alignment", 0); }); }, "general.alignment is not a power of two"},
    {"an alignment of 33", [] { return with([](B& b) { b.integer("general.alignment", 33); }); }, "(got 33)"},
    {"an alignment of 2^31", [] { return with([](B& b) { b.integer("general.alignment", 1u << 31); }); }, "general.alignment is not a power of two"},
    {"an alignment that is a string", [] { return with([](B& b) { b.words("general.alignment", "32"); }); }, "general.alignment is not a power of two"},
    {"a tensor twice", [] { return with([](B& b) { b.floats("a", {1}, {1}); }); }, "tensor a occurs twice"},
    {"a tensor without a name", [] { return B().floats("", {1}, {1}).bytes(); }, "a tensor name is empty"},
    {"a tensor name over the limit", [] { return B().floats(std::string(5000, 'x'), {1}, {1}).bytes(); }, "a tensor name is too long"},
    {"a name that drives a terminal", [] { return B().floats("\x1b]0;owned\a", {1}, {1}).floats("\x1b]0;owned\a", {1}, {1}).bytes(); }, "\\x1b]0;owned\\x07"},
    {"five dimensions", [] { return one_tensor({1, 1, 1, 1, 1}, 0); }, "too many dimensions (got 5, limit 4)"},
    {"2^32 - 1 dimensions", [] { return B().raw_key("").bytes().substr(0, 8) + B::raw<std::uint64_t>(1) + B::raw<std::uint64_t>(0) + B::text("t") + B::raw(0xffffffffu); }, "too many dimensions"},
    {"a dimension of 0", [] { return one_tensor({4, 0}, 0); }, "impossible dimension (got 0)"},
    {"a dimension of 2^63", [] { return one_tensor({1ull << 63}, 0); }, "impossible dimension"},
    {"a size that wraps to 64 bytes", [] { return one_tensor({1ull << 33, 1ull << 31, 4}, 0); }, "overflows"},
    {"a size that wraps with quantised blocks", [] { return one_tensor({32ull << 40, 1ull << 20, 1ull << 10}, 8); }, "overflows"},
    {"a row that is no whole number of blocks", [] { return one_tensor({33}, 2); }, "rows of 33 values are not whole blocks of 32"},
    {"a removed type", [] { return one_tensor({32}, 4); }, "a type we do not know (got 4)"},
    {"another removed type", [] { return one_tensor({32}, 31); }, "a type we do not know (got 31)"},
    {"a type out of range", [] { return one_tensor({32}, 4242); }, "a type we do not know (got 4242)"},
    {"a type of 2^32 - 1", [] { return one_tensor({32}, 0xffffffffu); }, "a type we do not know"},
    {"an offset past the end", [] { return one_tensor({16}, 0, 64, 1 << 20); }, "its data lies outside the file"},
    {"an offset that wraps", [] { return B().raw_key("").bytes().substr(0, 8) + B::raw<std::uint64_t>(1) + B::raw<std::uint64_t>(0) + B::text("t") + B::raw(1u) + B::raw<std::uint64_t>(8) + B::raw(0u) + B::raw<std::uint64_t>(~31ull) + std::string(64, '\0'); }, "its data lies outside the file"},
    {"an unaligned offset", [] { return one_tensor({4}, 0, 64, 8); }, "not a multiple of the alignment (got 8, alignment 32)"},
    {"overlapping tensors", [] { return B().tensor("t", {16}, 0, std::string(64, '\0')).tensor("u", {16}, 0, std::string(64, '\0'), 32).bytes(); }, "tensors t and u overlap"},
    {"a tensor larger than the file", [] { return one_tensor({1u << 30}, 0); }, "its data lies outside the file"},
};

TEST(GgufHeader, RefusesMalformedFilesSayingWhatAndWhere) {
    for (const Malformed& kind : malformed) {
        SCOPED_TRACE(kind.what);
        try {
            parse(kind.bytes());
            ADD_FAILURE() << "was accepted";
        } catch (const Error& e) {
            EXPECT_THAT(e.message(), HasSubstr(kind.message));
            EXPECT_THAT(e.message(), ::testing::StartsWith("m.gguf: "));
            EXPECT_EQ(exit_status(e.code()), 3);
        }
    }
    EXPECT_GE(std::size(malformed), 50u);
}

TEST(GgufHeader, RefusesEveryTruncation) {
    const std::string whole = minimal().integer("x", 7).key("list", B::array, B::raw(B::u16) + B::raw<std::uint64_t>(2) + "abcd").bytes();
    ASSERT_NO_THROW(parse(whole));
    for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_THROW(parse(whole.substr(0, length)), Error) << length;
}

TEST(GgufHeader, SurvivesEveryFlippedBit) {
    const std::string whole = minimal().integer("x", 7).bytes();
    for (std::size_t bit = 0; bit < minimal().integer("x", 7).header().size() * 8; ++bit) {
        std::string flipped = whole;
        flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
        try {
            for (const GgufTensor& tensor : parse(flipped).tensors) EXPECT_LE(tensor.offset + tensor.bytes, flipped.size());
        } catch (const Error&) {
        }
    }
}

TEST(Gguf, MapsPlainTensorsAndDecodesQuantisedOnes) {
    Folder folder;
    std::mt19937 random(3);
    std::vector<float> values(4 * 512);
    for (float& v : values) v = std::normal_distribution<float>()(random);
    for (const ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q8_0, GGML_TYPE_Q6_K, GGML_TYPE_Q2_K}) {
        std::string blocks(ggml_row_size(type, 512) * 4, '\0');
        ggml_quantize_chunk(type, values.data(), blocks.data(), 0, 4, 512, nullptr);
        std::vector<float> expected(values.size());
        ggml_get_type_traits(type)->to_float(blocks.data(), expected.data(), static_cast<std::int64_t>(expected.size()));
        write_file(folder / "m.gguf", B().tensor("q", {512, 4}, type, blocks).floats("f", {2}, {1, 2}).bytes());

        const GgufModel model = open_gguf(folder / "m.gguf");
        const TensorInfo& q = model.tensors->at("q");
        EXPECT_EQ(q.dtype, Dtype::f32);
        EXPECT_THAT(q.shape, ElementsAre(4, 512));
        EXPECT_EQ(floats_of(model.tensors->bytes(q)), expected);
        EXPECT_FALSE(model.tensors->bytes(q).mapped);
        EXPECT_TRUE(model.tensors->bytes(model.tensors->at("f")).mapped);

        // Any piece, on block borders or not.
        const auto* all = reinterpret_cast<const std::byte*>(expected.data());
        for (const auto& [offset, length] : {std::pair<std::size_t, std::size_t>{0, 8192}, {4, 3}, {1, 1}, {1000, 2500}, {2044, 8}, {8188, 4}, {8192, 0}}) {
            std::vector<std::byte> piece(length);
            model.tensors->read(q, offset, piece);
            EXPECT_TRUE(std::equal(piece.begin(), piece.end(), all + offset)) << ggml_type_name(type) << " " << offset;
        }
        std::vector<std::byte> past(8);
        EXPECT_THROW(model.tensors->read(q, 8188, past), Error);
        EXPECT_EQ(floats_of(model.tensors->slice(q, 2048, 4096)), std::vector<float>(expected.begin() + 512, expected.begin() + 1536));
    }
}

TEST(Gguf, RefusesTypesThatAreNotForStorage) {
    Folder folder;
    write_file(folder / "m.gguf", B().tensor("t", {256}, GGML_TYPE_Q8_K, std::string(ggml_type_size(GGML_TYPE_Q8_K), '\0')).bytes());
    EXPECT_THROW(open_gguf(folder / "m.gguf"), Error);
}

class GgufSplit : public ::testing::Test {
protected:
    void write(int part, int count, const std::string& tensor, int says_part = -1, int total = 2) {
        B b;
        b.key("split.no", B::u16, B::raw(static_cast<std::uint16_t>(says_part < 0 ? part : says_part)));
        b.key("split.count", B::u16, B::raw(static_cast<std::uint16_t>(count)));
        b.key("split.tensors.count", B::i32, B::raw(total));
        if (part == 0) b.words("general.architecture", "llama");
        b.floats(tensor, {1}, {static_cast<float>(part)});
        write_file(folder_ / name(part, count), b.bytes());
    }
    static std::string name(int part, int count) { return "m-0000" + std::to_string(part + 1) + "-of-0000" + std::to_string(count) + ".gguf"; }
    std::string message_of_opening(int part) {
        try {
            open_gguf(folder_ / name(part, 2));
        } catch (const Error& e) {
            return e.what();
        }
        return "opened";
    }
    Folder folder_;
};

TEST_F(GgufSplit, OpensFromAnyOfItsParts) {
    write(0, 2, "b");
    write(1, 2, "a");
    for (const int part : {0, 1}) {
        const GgufModel model = open_gguf(folder_ / name(part, 2));
        EXPECT_EQ(model.metadata.at("general.architecture"), "llama");
        ASSERT_EQ(model.tensors->tensors().size(), 2u);
        EXPECT_EQ(floats_of(model.tensors->bytes(model.tensors->at("a"))), std::vector<float>{1});
        EXPECT_THAT(model.tensors->where(model.tensors->at("a")), HasSubstr("00002-of-00002"));
    }
}

TEST_F(GgufSplit, RefusesMissingRenamedAndRepeatedParts) {
    write(0, 2, "a");
    EXPECT_THAT(message_of_opening(0), HasSubstr("m-00002-of-00002.gguf: cannot open"));
    write(1, 2, "b", 0);
    EXPECT_THAT(message_of_opening(0), HasSubstr("part 1 of 2, its name part 2 of 2"));
    write(1, 2, "a");
    EXPECT_THAT(message_of_opening(0), HasSubstr("tensor a is also in another file"));
    write(0, 2, "a", 0, 3);
    write(1, 2, "b", 1, 3);
    EXPECT_THAT(message_of_opening(1), HasSubstr("2 tensors together (expected 3)"));
}

TEST(Gguf, LeavesTheVocabularyOut) {
    const io::Json metadata{{"tokenizer.ggml.tokens", {"a"}}, {"tokenizer.ggml.model", "gpt2"}, {"general.tags", {"x"}}};
    EXPECT_EQ(without_vocabulary(metadata), (io::Json{{"tokenizer.ggml.model", "gpt2"}, {"general.tags", {"x"}}}));
}

}  // namespace
}  // namespace mixwright::checkpoint
