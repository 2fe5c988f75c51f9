// {FILE: TEXT, ...}, the small files of a model directory: each is refused with an Error, or gives a tokenizer, a chat
// template and the tokens that end a text.
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "arch/open_tokenizer.h"
#include "error.h"
#include "io/json.h"
#include "tokenizer/chat_template.h"

using namespace mixwright;
namespace fs = std::filesystem;

namespace {

const fs::path& folder() {
    static const fs::path path = [] {
        const fs::path made = fs::temp_directory_path() / ("mixwright-fuzz-" + std::to_string(::getpid()));
        std::atexit([] { fs::remove_all(folder()); });
        return made;
    }();
    return path;
}

template <class Work>
void attempt(Work work) {
    try {
        work();
    } catch (const Error&) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::array names{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                               "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"};
    io::Json files;
    attempt([&] { files = io::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz"); });
    if (!files.is_object()) return 0;
    fs::remove_all(folder());
    fs::create_directory(folder());
    for (const char* name : names)
        if (const auto text = files.find(name); text != files.end())
            std::ofstream(folder() / name) << (text->is_string() ? text->get<std::string>() : text->dump(-1, ' ', false, io::Json::error_handler_t::replace));
    attempt([] { arch::open_tokenizer(folder().string()).encode("ab <s>"); });
    attempt([] {
        if (const auto chat = arch::open_chat_template(folder().string())) chat->render(tokenizer::Conversation::parse(R"([{"role": "user", "content": "Hi"}])"));
    });
    return 0;
}
