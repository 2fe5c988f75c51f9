#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/sample_model.h"
#include "error.h"

namespace mixwright::checkpoint {
namespace {

using testing::HasSubstr;

// Reads a whole file held in memory.
SafetensorsHeader parse(std::string_view file) {
    const std::uint64_t json_bytes = safetensors_json_bytes(std::as_bytes(std::span(file)).first(std::min<std::size_t>(file.size(), 8)), file.size(), "f");
    return parse_safetensors_json(file.substr(8, json_bytes), file.size(), "f");
}

std::string refusal(std::string_view file) {
    try {
        parse(file);
    } catch (const Error& e) {
        return e.message();
    }
    return "accepted";
}

struct Malformed {
    std::string name, json, data, message;
};

std::string tensor(const std::string& fields) { return R"({"t":{)" + fields + "}}"; }

const std::string data8(8, 'x');
const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

const Malformed malformed[] = {
    {"empty header", "", "", "does not begin with an opening brace"},
    {"a list", "[]", "", "does not begin with an opening brace"},
    {"leading space", " {}", "", "does not begin with an opening brace"},
    {"byte order mark", "\xEF\xBB\xBF{}", "", "does not begin with an opening brace"},
    {"a string", R"("x")", "", "does not begin with an opening brace"},
    {"a bare brace", "{", "", "not valid JSON"},
    {"two values", "{}{}", "", "not valid JSON"},
    {"text behind", "{} x", "", "not valid JSON"},
    {"null byte behind", std::string("{}\0x", 4), "", "a null byte"},
    {"trailing comma", "{" + std::string(R"("t":{)") + good + "},}", data8, "not valid JSON"},
    {"comment", "{/* */}", "", "not valid JSON"},
    {"single quotes", "{'t':{}}", "", "not valid JSON"},
    {"invalid UTF-8 in a name", "{\"\xFF\":{" + good + "}}", data8, "not valid JSON"},
    {"overlong UTF-8 in a name", "{\"\xC0\xAF\":{" + good + "}}", data8, "not valid JSON"},
    {"lone surrogate in a name", R"({"\ud800":{)" + good + "}}", data8, "not valid JSON"},
    {"control byte in a name", "{\"a\nb\":{" + good + "}}", data8, "not valid JSON"},
    {"bad escape in a name", R"({"\q":{)" + good + "}}", data8, "not valid JSON"},
    {"tensor is null", R"({"t":null})", "", "tensor t: is not an object (got null)"},
    {"tensor is a list", R"({"t":[]})", "", "tensor t: is not an object (got an array)"},
    {"tensor is a number", R"({"t":1})", "", "tensor t: is not an object (got a number)"},
    {"tensor is a string", R"({"t":"x"})", "", "tensor t: is not an object (got a string)"},
    {"tensor is empty", R"({"t":{}})", "", "tensor t: has no dtype"},
    {"no dtype", tensor(R"("shape":[2],"data_offsets":[0,8])"), data8, "tensor t: has no dtype"},
    {"no shape", tensor(R"("dtype":"F32","data_offsets":[0,8])"), data8, "tensor t: has no shape"},
    {"no offsets", tensor(R"("dtype":"F32","shape":[2])"), data8, "tensor t: has no data_offsets"},
    {"unknown key", tensor(good + R"(,"extra":1)"), data8, "tensor t: unknown key extra"},
    {"dtype twice", tensor(R"("dtype":"F32",)" + good), data8, "tensor t: dtype occurs twice"},
    {"shape twice", tensor(R"("shape":[2],)" + good), data8, "tensor t: shape occurs twice"},
    {"offsets twice", tensor(R"("data_offsets":[0,8],)" + good), data8, "tensor t: data_offsets occurs twice"},
    {"unknown dtype", tensor(R"("dtype":"F33","shape":[2],"data_offsets":[0,8])"), data8, "tensor t: unknown dtype F33"},
    {"lower-case dtype", tensor(R"("dtype":"f32","shape":[2],"data_offsets":[0,8])"), data8, "tensor t: unknown dtype f32"},
    {"dtype with an escape", tensor(R"("dtype":"\u001b[2J","shape":[2],"data_offsets":[0,8])"), data8, R"(unknown dtype \x1b[2J)"},
    {"dtype is a number", tensor(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), data8, "tensor t: dtype is not a string (got a number)"},
    {"dtype is null", tensor(R"("dtype":null,"shape":[2],"data_offsets":[0,8])"), data8, "tensor t: dtype is not a string (got null)"},
    {"shape is a number", tensor(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), data8, "tensor t: shape is not an array (got a number)"},
    {"shape is an object", tensor(R"("dtype":"F32","shape":{},"data_offsets":[0,8])"), data8, "tensor t: shape is not an array (got an object)"},
    {"shape is a string", tensor(R"("dtype":"F32","shape":"2","data_offsets":[0,8])"), data8, "tensor t: shape is not an array (got a string)"},
    {"nested shape", tensor(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), data8, "tensor t: shape holds an array"},
    {"negative dimension", tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), data8, "tensor t: shape holds a negative number"},
    {"negative zero", tensor(R"("dtype":"F32","shape":[-0],"data_offsets":[0,0])"), "", "tensor t: shape holds a negative number"},
    {"broken dimension", tensor(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), data8, "tensor t: shape holds a number that is not whole"},
    {"dimension in exponents", tensor(R"("dtype":"F32","shape":[2e0],"data_offsets":[0,8])"), data8, "tensor t: shape holds a number that is not whole"},
    {"dimension is a string", tensor(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])"), data8, "tensor t: shape holds a string"},
    {"dimension is true", tensor(R"("dtype":"F32","shape":[true],"data_offsets":[0,8])"), data8, "tensor t: shape holds a boolean"},
    {"dimension of 2^63", tensor(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])"), data8, "dimension 9223372036854775808 is out of range"},
    {"dimension of 2^64", tensor(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8])"), data8, "a number that is not whole"},
    {"nine dimensions", tensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), "xxxx", "has more than 8 dimensions"},
    {"element count overflows", tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8])"), data8, "the product overflows"},
    {"byte count overflows", tensor(R"("dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,8])"), data8, "the product overflows"},
    {"overflow before a zero", tensor(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), "", "the product overflows"},
    {"offsets are a number", tensor(R"("dtype":"F32","shape":[2],"data_offsets":8)"), data8, "tensor t: data_offsets is not an array"},
    {"offsets are null", tensor(R"("dtype":"F32","shape":[2],"data_offsets":null)"), data8, "tensor t: data_offsets is not an array (got null)"},
    {"one offset", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), data8, "data_offsets has 1 values, expected 2"},
    {"no offsets in the list", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[])"), data8, "data_offsets has 0 values, expected 2"},
    {"three offsets", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,16])"), data8, "data_offsets has more than 2 values"},
    {"negative offset", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), data8, "data_offsets holds a negative number"},
    {"broken offset", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8.5])"), data8, "data_offsets holds a number that is not whole"},
    {"offset is a string", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,"8"])"), data8, "data_offsets holds a string"},
    {"ends before it begins", R"({"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"u":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})", data8,
     "ends at byte 18446744073709551615 of the data, which has 8"},
    {"reversed offsets", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), data8, "leaves a hole before it"},
    {"does not start at 0", tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), data8, "tensor t: leaves a hole before it (data begins at byte 4"},
    {"span too long", tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), data8, "shape [1] of F32 takes 4 bytes, its data_offsets span 8"},
    {"span too short", tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), data8, "shape [3] of F32 takes 12 bytes, its data_offsets span 8"},
    {"scalar of no bytes", tensor(R"("dtype":"F32","shape":[],"data_offsets":[0,0])"), "", "takes 4 bytes, its data_offsets span 0"},
    {"past the end of the file", tensor(good), "xxxx", "tensor t: ends at byte 8 of the data, which has 4"},
    {"bytes behind the last tensor", tensor(good), data8 + "evil", "4 bytes behind the last tensor"},
    {"data without tensors", "{}", data8, "8 bytes behind the last tensor"},
    {"overlap", R"({"t":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},"u":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", data8, "tensor u: overlaps the tensor before it"},
    {"the same bytes twice", R"({"t":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"u":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})", data8, "overlaps the tensor before it"},
    {"hole between", R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"u":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", data8, "tensor u: leaves a hole before it"},
    {"name twice", R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", data8, "tensor t occurs twice"},
    {"name twice, once escaped", R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\u0074":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", data8, "tensor t occurs twice"},
    {"name too long", R"({")" + std::string(1025, 'n') + R"(":{)" + good + "}}", data8, "a tensor name is 1025 bytes long (limit 1024)"},
    {"metadata is null", R"({"__metadata__":null})", "", "__metadata__ is not an object (got null)"},
    {"metadata is a list", R"({"__metadata__":[]})", "", "__metadata__ is not an object (got an array)"},
    {"metadata holds a number", R"({"__metadata__":{"a":1}})", "", "__metadata__: the value of a is not a string (got a number)"},
    {"metadata holds an object", R"({"__metadata__":{"a":{}}})", "", "__metadata__: the value of a is not a string (got an object)"},
    {"metadata key twice", R"({"__metadata__":{"a":"1","a":"2"}})", "", "__metadata__: key a occurs twice"},
    {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", "", "__metadata__ occurs twice"},
};

TEST(Safetensors, refuses_what_is_malformed_and_says_where) {
    EXPECT_GE(std::size(malformed), 60u);
    for (const Malformed& kind : malformed)
        EXPECT_THAT(refusal(safetensors_bytes(kind.json, kind.data)), HasSubstr(kind.message)) << kind.name;
}

TEST(Safetensors, refuses_lengths_that_lie) {
    EXPECT_THAT(refusal(""), HasSubstr("f: too short to be a safetensors file (0 bytes)"));
    EXPECT_THAT(refusal(std::string(7, '\0')), HasSubstr("too short"));
    EXPECT_THAT(refusal(std::string("\x10\0\0\0\0\0\0\0{}", 10)), HasSubstr("the header claims 16 bytes, the file has 2"));
    EXPECT_THAT(refusal(std::string(8, '\xFF') + "{}"), HasSubstr("the header claims 18446744073709551615 bytes (limit 100000000)"));
    EXPECT_THAT(refusal(std::string("\x01\xE1\xF5\x05\0\0\0\0{}", 10)), HasSubstr("(limit 100000000)"));
    EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("the header claims"));
}

TEST(Safetensors, reads_what_is_valid) {
    const SafetensorsHeader header = parse(sample_safetensors());
    ASSERT_EQ(header.entries.size(), 3u);
    EXPECT_EQ(header.entries[0].info, (TensorInfo{"a", Dtype::bf16, {2, 3}}));
    EXPECT_EQ(header.entries[2].end - header.entries[2].begin, 4u);
    EXPECT_EQ(header.metadata.at("format"), "pt");
    EXPECT_EQ(parse(safetensors_bytes("{}", "")).entries.size(), 0u);
    EXPECT_EQ(parse(safetensors_bytes(tensor(R"("dtype":"F32","shape":[0,9],"data_offsets":[0,0])"), "")).entries.size(), 1u);
    EXPECT_EQ(parse(safetensors_bytes(tensor(good) + "   ", data8)).entries.size(), 1u);
}

TEST(Safetensors, every_truncation_is_refused) {
    const std::string whole = sample_safetensors();
    ASSERT_NO_THROW(parse(whole));
    for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
}

TEST(Safetensors, every_flipped_bit_of_a_header_is_refused_or_stays_in_bounds) {
    const std::string whole = sample_safetensors();
    int accepted = 0;
    for (std::size_t bit = 0; bit < (whole.size() - 24) * 8; ++bit) {
        std::string flipped = whole;
        flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
        try {
            for (const SafetensorsEntry& entry : parse(flipped).entries) {
                ASSERT_LE(entry.begin, entry.end);
                ASSERT_LE(entry.end, flipped.size());
                ASSERT_EQ(entry.info.num_bytes(), entry.end - entry.begin);
            }
            ++accepted;
        } catch (const Error&) {
        }
    }
    EXPECT_GT(accepted, 0);  // names may change
}

TEST(Safetensors, a_header_of_a_hundred_thousand_tensors_is_read) {
    std::string json = "{";
    for (int i = 0; i < 100'000; ++i)
        json += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" + std::to_string(i) + "," + std::to_string(i + 1) + "]}";
    EXPECT_EQ(parse(safetensors_bytes(json + "}", std::string(100'000, 'x'))).entries.size(), 100'000u);
}

}  // namespace
}  // namespace mixwright::checkpoint
