// Stands in for libFuzzer where there is no clang: runs the target on every file of the folders named, and on each of
// its truncations and single-byte changes, so that a corpus is worth more than its number of files.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
    constexpr std::size_t max_positions = 256;  // changes tried in a file
    std::size_t files = 0, runs = 0;
    for (int i = 1; i < argc; ++i)
        for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
            std::ifstream file(entry.path(), std::ios::binary);
            std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
            LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
            ++files, ++runs;
            const std::size_t step = bytes.size() / max_positions + 1;
            for (std::size_t at = 0; at < bytes.size(); at += step) {
                // A buffer of its own for each cut: a sanitizer then sees one byte read too far.
                const std::vector<std::uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
                LLVMFuzzerTestOneInput(cut.data(), cut.size());
                const std::uint8_t kept = bytes[at];
                bytes[at] = static_cast<std::uint8_t>(kept ^ (1u << at % 8));
                LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
                bytes[at] = kept;
                runs += 2;
            }
        }
    std::printf("%zu files, %zu runs\n", files, runs);
    return files == 0;
}
