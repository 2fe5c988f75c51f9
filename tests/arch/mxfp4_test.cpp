#include "arch/mxfp4.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>

#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;

class Memory final : public checkpoint::TensorSource {
public:
    void add(TensorInfo info, std::vector<std::byte> bytes) {
        data_[info.name] = std::make_shared<std::vector<std::byte>>(std::move(bytes));
        infos_.push_back(std::move(info));
        std::ranges::sort(infos_, {}, &TensorInfo::name);
    }
    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo&) const override { return "memory"; }
    TensorBytes bytes(const TensorInfo& info) const override { return {*data_.at(info.name), data_.at(info.name), false}; }

private:
    std::vector<TensorInfo> infos_;
    std::map<std::string, std::shared_ptr<std::vector<std::byte>>> data_;
};

// Two rows of two blocks; byte i of block b is i + 16 b, scales 127 + b.
std::shared_ptr<Memory> sample() {
    auto source = std::make_shared<Memory>();
    std::vector<std::byte> blocks, scales;
    for (int b = 0; b < 4; ++b) {
        for (int i = 0; i < 16; ++i) blocks.push_back(static_cast<std::byte>(i + 16 * b));
        scales.push_back(static_cast<std::byte>(127 + b));
    }
    source->add({"w_blocks", Dtype::u8, {2, 2, 16}}, blocks);
    source->add({"w_scales", Dtype::u8, {2, 2}}, scales);
    source->add({"x", Dtype::u8, {1}}, {std::byte{7}});
    return source;
}

float as_float(const std::byte* bf16) {
    std::uint16_t half = 0;
    std::memcpy(&half, bf16, 2);
    return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

// The table of the format, written out.
float expected(std::size_t index) {
    constexpr float table[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
    const std::size_t block = index / 32, byte = index % 32 / 2 + 16 * block;
    return table[index % 2 == 0 ? byte & 15 : byte >> 4] * std::exp2(static_cast<float>(block));
}

TEST(Mxfp4, decodes_every_value_exactly) {
    const auto decoded = decode_mxfp4(sample());
    ASSERT_EQ(decoded->tensors().size(), 2u);
    const TensorInfo& info = decoded->at("w_blocks");
    EXPECT_EQ(info.dtype, Dtype::bf16);
    EXPECT_THAT(info.shape, testing::ElementsAre(2, 64));
    const TensorBytes bytes = decoded->bytes(info);
    ASSERT_EQ(bytes.bytes.size(), 256u);
    for (std::size_t i = 0; i < 128; ++i) EXPECT_EQ(as_float(bytes.bytes.data() + 2 * i), expected(i)) << i;
    EXPECT_EQ(decoded->bytes(decoded->at("x")).bytes[0], std::byte{7});
}

TEST(Mxfp4, reads_any_range_as_it_reads_the_whole) {
    const auto decoded = decode_mxfp4(sample());
    const TensorInfo& info = decoded->at("w_blocks");
    const TensorBytes whole = decoded->bytes(info);
    for (std::size_t begin = 0; begin < 256; begin += 37)
        for (std::size_t end = begin; end <= 256; end += 51) {
            std::vector<std::byte> out(end - begin);
            decoded->read(info, begin, out);
            EXPECT_TRUE(std::equal(out.begin(), out.end(), whole.bytes.begin() + static_cast<std::ptrdiff_t>(begin))) << begin << " to " << end;
        }
}

TEST(Mxfp4, refuses_blocks_whose_scales_do_not_fit) {
    auto source = std::make_shared<Memory>();
    source->add({"w_blocks", Dtype::u8, {2, 2, 16}}, std::vector<std::byte>(64));
    EXPECT_THROW(decode_mxfp4(source), Error);
    source->add({"w_scales", Dtype::u8, {4}}, std::vector<std::byte>(4));
    EXPECT_THROW(decode_mxfp4(source), Error);
    auto odd = std::make_shared<Memory>();
    odd->add({"w_blocks", Dtype::u8, {2, 2, 8}}, std::vector<std::byte>(32));
    EXPECT_THROW(decode_mxfp4(odd), Error);
}

}  // namespace
}  // namespace mixwright::arch
