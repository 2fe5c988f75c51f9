#include "checkpoint/zip_directory.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "checkpoint/byte_reader.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::uint64_t max_entries = 1'000'000;
constexpr std::uint64_t max_name_bytes = 1024;
constexpr std::uint32_t local_signature = 0x04034b50, central_signature = 0x02014b50, end_signature = 0x06054b50, end64_signature = 0x06064b50,
                        locator64_signature = 0x07064b50;
constexpr std::uint64_t end_bytes = 22, locator64_bytes = 20, local_bytes = 30;
constexpr std::uint16_t encrypted_flag = 1, zip64_extra = 1;
constexpr std::uint32_t full32 = 0xffffffffu;
constexpr std::uint16_t full16 = 0xffffu;

class ZipReader {
public:
    ZipReader(std::span<const std::byte> file, const std::string& source) : file_(file), source_(source) {}

    std::map<std::string, ZipEntry, std::less<>> read() {
        find_directory();
        if (count_ > max_entries) at(directory_).fail(fmt::format("the archive has too many entries (got {}, limit {})", count_, max_entries));
        ByteReader reader = at(directory_);
        for (std::uint64_t i = 0; i < count_; ++i) read_entry(reader);
        reject_overlaps();
        return std::move(entries_);
    }

private:
    ByteReader at(std::uint64_t offset) const {
        if (offset > file_.size()) ByteReader(file_, source_).fail_at(offset, fmt::format("an offset past the end of the file (which has {} bytes)", file_.size()));
        return {file_, source_, offset};
    }

    // The end record is the last thing in the file but for a comment of at most 65535 bytes.
    void find_directory() {
        const std::uint64_t furthest = end_bytes + full16;
        const std::uint64_t stop = file_.size() > furthest ? file_.size() - furthest : 0;
        for (std::uint64_t offset = file_.size() < end_bytes ? 0 : file_.size() - end_bytes + 1; offset-- > stop;) {
            ByteReader reader = at(offset);
            if (reader.remaining() >= end_bytes && reader.number<std::uint32_t>("a signature") == end_signature) return read_end(reader, offset);
        }
        at(file_.size()).fail("the archive has no directory at its end", "the file is truncated, or a download was cut off");
    }

    void read_end(ByteReader reader, std::uint64_t offset) {
        const auto disk = reader.number<std::uint16_t>("a disk number"), directory_disk = reader.number<std::uint16_t>("a disk number");
        const auto here = reader.number<std::uint16_t>("a count"), in_all = reader.number<std::uint16_t>("a count");
        const auto size = reader.number<std::uint32_t>("a size"), start = reader.number<std::uint32_t>("an offset");
        if (offset >= locator64_bytes && (here == full16 || size == full32 || start == full32)) {
            ByteReader locator = at(offset - locator64_bytes);
            if (locator.number<std::uint32_t>("a signature") == locator64_signature) return read_end64(locator);
        }
        if (disk != 0 || directory_disk != 0 || here != in_all) unsupported(offset, "is spread over several files");
        count_ = in_all;
        directory_ = start;
    }

    void read_end64(ByteReader& locator) {
        locator.number<std::uint32_t>("a disk number");
        ByteReader reader = at(locator.number<std::uint64_t>("an offset"));
        const std::uint64_t offset = reader.offset();
        if (reader.number<std::uint32_t>("a signature") != end64_signature) reader.fail_at(offset, "the zip64 directory is not where it is said to be");
        reader.take(8 + 2 + 2, "the zip64 directory");
        const auto disk = reader.number<std::uint32_t>("a disk number"), directory_disk = reader.number<std::uint32_t>("a disk number");
        const auto here = reader.number<std::uint64_t>("a count");
        count_ = reader.number<std::uint64_t>("a count");
        if (disk != 0 || directory_disk != 0 || here != count_) unsupported(offset, "is spread over several files");
        reader.number<std::uint64_t>("a size");
        directory_ = reader.number<std::uint64_t>("an offset");
    }

    void read_entry(ByteReader& reader) {
        const std::uint64_t start = reader.offset();
        if (reader.number<std::uint32_t>("a directory entry") != central_signature) reader.fail_at(start, "expected an entry of the directory");
        reader.take(4, "a directory entry");
        const auto flags = reader.number<std::uint16_t>("flags"), method = reader.number<std::uint16_t>("a method");
        reader.take(8, "a directory entry");
        std::uint64_t packed = reader.number<std::uint32_t>("a size"), bytes = reader.number<std::uint32_t>("a size");
        const auto name_length = reader.number<std::uint16_t>("a length"), extra_length = reader.number<std::uint16_t>("a length"),
                   comment_length = reader.number<std::uint16_t>("a length");
        reader.take(8, "a directory entry");
        std::uint64_t local = reader.number<std::uint32_t>("an offset");
        std::string name(reader.text(name_length, "the name of an entry"));
        const std::uint64_t extra = reader.offset();
        reader.take(extra_length, "the extra field of an entry");
        reader.take(comment_length, "the comment of an entry");
        if (name.empty() || name.size() > max_name_bytes) reader.fail_at(start, fmt::format("the name of an entry has {} bytes (expected 1 to {})", name.size(), max_name_bytes));
        read_extra({file_.first(extra + extra_length), source_, extra}, bytes, packed, local);
        if ((flags & encrypted_flag) != 0) unsupported(start, fmt::format("holds {} encrypted", printable(name)));
        if (method != 0 || packed != bytes) unsupported(start, fmt::format("holds {} compressed", printable(name)));
        const ZipEntry entry{data_offset(name, local), bytes};
        if (entry.bytes > file_.size() - entry.offset) reader.fail_at(start, fmt::format("entry {} runs past the end of the file", printable(name)));
        const std::string shown = printable(name);
        if (!entries_.emplace(std::move(name), entry).second) reader.fail_at(start, fmt::format("entry {} occurs twice", shown));
    }

    // 64-bit values stand in the extra field, in this order, for those that are all ones in the entry.
    static void read_extra(ByteReader extra, std::uint64_t& bytes, std::uint64_t& packed, std::uint64_t& local) {
        while (extra.remaining() >= 4) {
            const auto id = extra.number<std::uint16_t>("an extra field"), length = extra.number<std::uint16_t>("an extra field");
            if (id != zip64_extra) {
                extra.take(length, "an extra field");
                continue;
            }
            for (std::uint64_t* value : {&bytes, &packed, &local})
                if (*value == full32) *value = extra.number<std::uint64_t>("a zip64 field");
            return;
        }
    }

    // The bytes follow the local header, whose own extra field may differ from the directory's.
    std::uint64_t data_offset(const std::string& name, std::uint64_t local) const {
        ByteReader reader = at(local);
        if (reader.remaining() < local_bytes || reader.number<std::uint32_t>("a local header") != local_signature)
            reader.fail_at(local, fmt::format("entry {} has no header where the directory says", printable(name)));
        reader.take(22, "a local header");
        const auto name_length = reader.number<std::uint16_t>("a length"), extra_length = reader.number<std::uint16_t>("a length");
        if (reader.text(name_length, "the name of an entry") != name)
            reader.fail_at(local, fmt::format("entry {} has another name in its own header", printable(name)));
        reader.take(extra_length, "the extra field of an entry");
        return reader.offset();
    }

    void reject_overlaps() const {
        std::vector<std::pair<const std::string*, ZipEntry>> order;
        for (const auto& [name, entry] : entries_) order.emplace_back(&name, entry);
        std::ranges::sort(order, {}, [](const auto& pair) { return pair.second.offset; });
        for (std::size_t i = 1; i < order.size(); ++i)
            if (order[i - 1].second.offset + order[i - 1].second.bytes > order[i].second.offset)
                at(order[i].second.offset).fail(fmt::format("entries {} and {} overlap", printable(*order[i - 1].first), printable(*order[i].first)));
    }

    [[noreturn]] void unsupported(std::uint64_t offset, const std::string& what) const {
        throw Error(ErrorCode::unsupported, fmt::format("{}: at byte {}: the archive {}", source_, offset, what), "torch.save writes plain, uncompressed archives");
    }

    std::span<const std::byte> file_;
    const std::string& source_;
    std::uint64_t directory_ = 0, count_ = 0;
    std::map<std::string, ZipEntry, std::less<>> entries_;
};

}  // namespace

bool looks_like_zip(std::span<const std::byte> file) noexcept { return file.size() >= 4 && std::memcmp(file.data(), "PK\3\4", 4) == 0; }

std::map<std::string, ZipEntry, std::less<>> read_zip_directory(std::span<const std::byte> file, const std::string& source) {
    return ZipReader(file, source).read();
}

}  // namespace mixwright::checkpoint
