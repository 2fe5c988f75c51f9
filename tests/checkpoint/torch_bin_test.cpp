#include "checkpoint/torch_bin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "checkpoint/torch_bin_builder.h"
#include "error.h"

namespace mixwright::checkpoint {
namespace {

namespace fs = std::filesystem;
using namespace testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TorchBin : public ::testing::Test {
protected:
    TorchBin() { fs::create_directories(folder_); }
    ~TorchBin() override { fs::remove_all(folder_); }

    std::shared_ptr<const TensorSource> open(const std::string& bytes) {
        std::ofstream(folder_ / "pytorch_model.bin", std::ios::binary | std::ios::trunc) << bytes;
        return open_torch_bin(folder_);
    }
    std::shared_ptr<const TensorSource> open_pickle(const std::string& pickle) { return open(torch_zip(pickle).bytes()); }

    static std::vector<float> values(const TensorSource& source, const std::string& name) {
        const TensorBytes bytes = source.bytes(source.at(name));
        std::vector<float> result(bytes.bytes.size() / sizeof(float));
        std::memcpy(result.data(), bytes.bytes.data(), bytes.bytes.size());
        return result;
    }

    fs::path folder_ = fs::temp_directory_path() / ("mixwright-torch-" + std::to_string(std::random_device{}()));
};

TEST_F(TorchBin, MapsContiguousTensorsAndGathersStridedOnes) {
    const auto source = open_pickle(pk_dict({{"w", PkTensor{}.bytes()},
                                             {"t", PkTensor{.shape = {3, 2}, .strides = {1, 3}}.bytes()},
                                             {"row", PkTensor{.offset = 3, .shape = {3}, .strides = {1}}.bytes()},
                                             {"column", PkTensor{.offset = 1, .shape = {2}, .strides = {3}}.bytes()},
                                             {"scalar", PkTensor{.offset = 5, .shape = {}, .strides = {}}.bytes()},
                                             {"none", PkTensor{.shape = {0, 4}, .strides = {4, 1}}.bytes()}}));
    EXPECT_EQ(values(*source, "w"), six_values);
    EXPECT_TRUE(source->bytes(source->at("w")).mapped);
    EXPECT_THAT(values(*source, "t"), ElementsAre(0, 3, 1, 4, 2, 5));
    EXPECT_THAT(values(*source, "row"), ElementsAre(3, 4, 5));
    EXPECT_THAT(values(*source, "column"), ElementsAre(1, 4));
    EXPECT_THAT(values(*source, "scalar"), ElementsAre(5));
    EXPECT_TRUE(values(*source, "none").empty());
    std::vector<std::byte> piece(8);
    source->read(source->at("t"), 4, piece);
    EXPECT_EQ(std::memcmp(piece.data(), floats({3, 1}).data(), 8), 0);
}

TEST_F(TorchBin, ReadsZip64AndOtherPrefixes) {
    ZipBuilder zip = torch_zip(pk_dict({{"w", PkTensor{}.bytes()}}));
    zip.zip64 = true;
    for (ZipPart& part : zip.parts) {
        part.zip64 = true;
        part.name = "some/where" + part.name.substr(7);
    }
    EXPECT_EQ(values(*open(zip.bytes()), "w"), six_values);
}

TEST_F(TorchBin, LooksIntoAStateDictAndPassesOverOtherValues) {
    const std::string inner = "}(" + pk_text("w") + PkTensor{}.bytes() + pk_text("steps") + pk_int(7) + "u";
    const auto source = open_pickle("\x80\x02}(" + pk_text("epoch") + pk_int(3) + pk_text("state_dict") + inner + "u.");
    ASSERT_EQ(source->tensors().size(), 1u);
    EXPECT_EQ(source->tensors()[0].name, "w");
}

struct Malformed {
    const char* what;
    std::string bytes;
    const char* message;
};

std::string with_tensor(const PkTensor& tensor) { return torch_zip(pk_dict({{"w", tensor.bytes()}})).bytes(); }
std::string with_value(const std::string& opcodes) { return torch_zip(pk_dict({{"w", opcodes}})).bytes(); }
std::string with_pickle(const std::string& pickle) { return torch_zip(pickle).bytes(); }
std::string with_zip(const std::function<void(ZipBuilder&)>& change) {
    ZipBuilder zip = torch_zip(pk_dict({{"w", PkTensor{}.bytes()}}));
    change(zip);
    return zip.bytes();
}
std::string call(const std::string& module, const std::string& name, const std::string& argument) {
    return with_value(pk_global(module, name) + pk_tuple({pk_text(argument)}) + "R");
}
std::string good() { return with_tensor({}); }

std::vector<Malformed> malformed() {
    return {
        // what a hostile file would run
        {"os.system", call("os", "system", "id"), "the pickle names os.system"},
        {"posix.system", call("posix", "system", "id"), "the pickle names posix.system"},
        {"builtins.eval", call("builtins", "eval", "1"), "the pickle names builtins.eval"},
        {"builtins.getattr", call("builtins", "getattr", "x"), "the pickle names builtins.getattr"},
        {"torch.load", call("torch", "load", "x"), "the pickle names torch.load"},
        {"torch.hub.load", call("torch.hub", "load", "x"), "the pickle names torch.hub.load"},
        {"numpy's reconstruct", call("numpy.core.multiarray", "_reconstruct", "x"), "numpy.core.multiarray._reconstruct"},
        {"a dotted name", call("torch", "_utils.os.system", "x"), "torch._utils.os.system"},
        {"a name that drives a terminal", with_value(pk_global("\x1b[2J", "x")), "\\x1b[2J.x"},
        {"a global from the stack", with_value(pk_text("os") + pk_text("system") + "\x93"), "the pickle names os.system"},
        {"NEWOBJ", with_value(pk_global("collections", "OrderedDict") + ")\x81"), "opcode NEWOBJ (0x81)"},
        {"INST", with_value("(ios\nsystem\n"), "opcode INST (0x69)"},
        {"OBJ", with_value("(" + pk_global("collections", "OrderedDict") + "o"), "opcode OBJ (0x6f)"},
        {"EXT1", with_value("\x82\x01"), "opcode EXT1 (0x82)"},
        {"PERSID", with_value("P0\n"), "opcode PERSID (0x50)"},
        {"BYTEARRAY8", with_value("\x96" + le<std::uint64_t>(0)), "opcode BYTEARRAY8 (0x96)"},
        {"an opcode that is none", with_value("\xff"), "opcode unknown (0xff)"},
        {"a storage type that is called", with_value(pk_global("torch", "FloatStorage") + ")R"), "the pickle calls torch.FloatStorage"},
        {"a call of what is no global", with_value(pk_int(1) + ")R"), "calls what is no global"},
        {"a state for a tensor", with_value(PkTensor{}.bytes() + "}b"), "gives a state to what is no dict"},
        // broken pickles
        {"an empty pickle", with_pickle(""), "an opcode runs past the end"},
        {"no STOP", with_pickle("\x80\x02}"), "an opcode runs past the end"},
        {"STOP on an empty stack", with_pickle("\x80\x02."), "takes a value from an empty stack"},
        {"protocol 9", with_pickle("\x80\x09}."), "pickle protocol 9"},
        {"no dict", with_pickle("\x80\x02K\x07."), "expected a dict of tensors"},
        {"a memo that was never set", with_value("h\x07"), "never remembered (key 7)"},
        {"a mark that was never set", with_pickle("\x80\x02t."), "a mark that it never set"},
        {"a value from below a mark", with_pickle("\x80\x02}(0."), "from an empty stack"},
        {"a key without a value", with_pickle("\x80\x02}(" + pk_text("a") + "u."), "a key without a value"},
        {"items of a list", with_pickle("\x80\x02](" + pk_text("a") + pk_int(1) + "u."), "sets items of what is no dict"},
        {"a text past the end", with_value("X" + le<std::uint32_t>(5000)), "a text runs past the end"},
        {"a text of 4 GB", with_value("X" + le<std::uint32_t>(0xffffffff)), "a text is too long"},
        {"a global without a newline", with_pickle("\x80\x02" "ccollections"), "is not ended by a newline"},
        {"a persistent id that is no storage", with_value(pk_tuple({pk_text("module")}) + "Q"), "a persistent id is no storage"},
        {"a storage without a type", with_value(pk_tuple({pk_text("storage"), pk_int(1), pk_text("0"), pk_text("cpu"), pk_int(6)}) + "Q"), "no storage type"},
        {"a key that is a number", with_pickle("\x80\x02}(" + pk_int(1) + PkTensor{}.bytes() + "u."), "under a key that is no text"},
        {"a tensor without a name", torch_zip(pk_dict({{"", PkTensor{}.bytes()}})).bytes(), "the name of a tensor has 0 bytes"},
        {"a tensor twice", torch_zip(pk_dict({{"w", PkTensor{}.bytes()}, {"w", PkTensor{}.bytes()}})).bytes(), "tensor w occurs twice"},
        // tensors that do not fit their storages
        {"a shape past the storage", with_tensor({.shape = {3, 3}}), "tensor w does not lie inside its storage of 6 values"},
        {"an offset past the storage", with_tensor({.offset = 1}), "does not lie inside its storage"},
        {"strides past the storage", with_tensor({.strides = {4, 1}}), "does not lie inside its storage"},
        {"an expanded tensor", with_tensor({.shape = {1 << 30, 6}, .strides = {0, 1}}), "does not lie inside its storage"},
        {"a size that overflows", with_tensor({.shape = {1 << 30, 1 << 30, 1 << 30}, .strides = {0, 0, 0}}), "does not lie inside its storage"},
        {"a negative size", with_tensor({.shape = {-2, 3}}), "holds what is no size"},
        {"a negative stride", with_tensor({.strides = {-3, 1}}), "holds what is no size"},
        {"a negative offset", with_tensor({.offset = -1}), "its offset is no size"},
        {"a negative storage", with_tensor({.storage_size = -6}), "the size of a storage"},
        {"fewer strides than dimensions", with_tensor({.strides = {1}}), "2 dimensions and 1 strides"},
        {"nine dimensions", with_tensor({.shape = std::vector<std::int32_t>(9, 1), .strides = std::vector<std::int32_t>(9, 1)}), "too many dimensions"},
        {"a storage that is not there", with_tensor({.key = "9"}), "storage 9 is not in the file"},
        {"a storage that is shorter than said", with_tensor({.storage_size = 60}), "shorter than the pickle says (got 24 bytes, expected 240)"},
        {"a storage of a wider type", with_tensor({.storage_type = "DoubleStorage"}), "shorter than the pickle says"},
        // archives
        {"neither form", "hello, world", "m.bin"},
        {"a truncated archive", good().substr(0, good().size() / 2), "no directory at its end"},
        {"no data.pkl", ZipBuilder{.parts = {{.name = "a/b", .data = "x"}}}.bytes(), "holds no data.pkl"},
        {"data.pkl twice", with_zip([](ZipBuilder& z) { z.parts.push_back({.name = "other/data.pkl", .data = "x"}); }), "data.pkl twice"},
        {"an entry twice", with_zip([](ZipBuilder& z) { z.parts.push_back(z.parts[2]); }), "occurs twice"},
        {"big-endian values", with_zip([](ZipBuilder& z) { z.parts[1].data = "big"; }), "not little-endian"},
        {"a compressed entry", with_zip([](ZipBuilder& z) { z.parts[2].method = 8; }), "compressed"},
        {"an encrypted entry", with_zip([](ZipBuilder& z) { z.parts[2].flags = 1; }), "encrypted"},
        {"an entry past the end", with_zip([](ZipBuilder& z) { z.parts[2].size_lie = 1 << 20; }), "runs past the end of the file"},
        {"an entry of 2^63 bytes", with_zip([](ZipBuilder& z) { z.parts[2].zip64 = true; z.parts[2].size_lie = INT64_MIN; }), "runs past the end of the file"},
        {"an entry that is elsewhere", with_zip([](ZipBuilder& z) { z.parts[2].offset_lie = 5; }), "no header where the directory says"},
        {"an entry past the file", with_zip([](ZipBuilder& z) { z.parts[2].offset_lie = 1 << 24; }), "an offset past the end"},
        {"an entry at 2^63", with_zip([](ZipBuilder& z) { z.parts[2].zip64 = true; z.parts[2].offset_lie = INT64_MIN; }), "an offset past the end"},
        {"an entry of two names", with_zip([](ZipBuilder& z) { z.parts[2].local_name = "archive/data/1"; }), "another name in its own header"},
        {"overlapping entries", with_zip([](ZipBuilder& z) { z.parts[0].size_lie = 100; }), "overlap"},
        {"more entries than there are", with_zip([](ZipBuilder& z) { z.count_lie = 3; }), "expected an entry of the directory"},
        {"2^64 - 1 entries", with_zip([](ZipBuilder& z) { z.zip64 = true; z.count_lie = -4; }), "too many entries"},
    };
}

TEST_F(TorchBin, RefusesMalformedAndHostileFilesSayingWhatAndWhere) {
    for (const Malformed& kind : malformed()) {
        SCOPED_TRACE(kind.what);
        try {
            open(kind.bytes);
            ADD_FAILURE() << "was accepted";
        } catch (const Error& e) {
            if (std::string_view(kind.message) != "m.bin") {
                EXPECT_THAT(e.message(), HasSubstr(kind.message));
            }
            EXPECT_THAT(e.message(), HasSubstr("pytorch_model.bin: "));
            EXPECT_EQ(exit_status(e.code()), 3);
        }
    }
    EXPECT_GE(malformed().size(), 60u);
}

TEST_F(TorchBin, RefusesEveryTruncation) {
    const std::string whole = good();
    ASSERT_NO_THROW(open(whole));
    for (std::size_t length = 0; length < whole.size(); length += 3) EXPECT_THROW(open(whole.substr(0, length)), Error) << length;
}

TEST_F(TorchBin, SurvivesEveryFlippedBit) {
    const std::string whole = good();
    for (std::size_t bit = 0; bit < whole.size() * 8; bit += 5) {
        std::string flipped = whole;
        flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
        try {
            const auto source = open(flipped);
            for (const TensorInfo& info : source->tensors()) EXPECT_EQ(source->bytes(info).bytes.size(), info.num_bytes());
        } catch (const Error&) {
        }
    }
}

TEST_F(TorchBin, BoundsWhatAPickleMayHold) {
    // A list of pairs made into a dict again and again: a few bytes each time, and as much memory as the list.
    std::string pairs = "](";
    for (int i = 0; i < 2000; ++i) pairs += "NN\x86";
    std::string pickle = "\x80\x02" + pairs + "e\x85q\x01" + pk_global("collections", "OrderedDict") + "q\x02";
    for (int i = 0; i < 4000; ++i) pickle += "h\x02h\x01R";
    EXPECT_THROW(open_pickle(pickle + "."), Error);
    // A million tuples within each other: nothing recurses.
    EXPECT_THROW(open_pickle("\x80\x02N" + std::string(1'000'000, '\x85') + "."), Error);
    // A list that holds itself.
    EXPECT_THROW(open_pickle("\x80\x02]q\x01h\x01" "a."), Error);
}

TEST_F(TorchBin, ReadsShardsThroughTheirIndex) {
    std::ofstream(folder_ / "a.bin", std::ios::binary) << with_tensor({});
    std::ofstream(folder_ / "b.bin", std::ios::binary) << torch_zip(pk_dict({{"v", PkTensor{}.bytes()}})).bytes();
    const auto index = [&](const std::string& v_file) {
        std::ofstream(folder_ / "pytorch_model.bin.index.json", std::ios::trunc) << R"({"weight_map": {"w": "a.bin", "v": ")" << v_file << "\"}}";
        return open_torch_bin(folder_);
    };
    EXPECT_EQ(index("b.bin")->tensors().size(), 2u);
    EXPECT_THROW(index("a.bin"), Error);
    EXPECT_THROW(index("../b.bin"), Error);
    EXPECT_THROW(index("/etc/passwd"), Error);
    EXPECT_THROW(index("c.bin"), Error);
}

}  // namespace
}  // namespace mixwright::checkpoint
