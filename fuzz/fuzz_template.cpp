// Chat templates: whatever the text, rendering ends with a text within the limits or a Failure, and gives all memory back.
#include <cstdlib>

#include "jinja/template.h"

using namespace mixwright::jinja;

namespace {

const nlohmann::ordered_json& conversation() {
    static const auto json = nlohmann::ordered_json::parse(R"({
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hé \"x\"\n"},
                     {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2.5, true]}}}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "documents": null, "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})");
    return json;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Limits limits;
    limits.steps = 100'000;
    limits.memory = 8u << 20;
    limits.output = 1u << 18;
    const Budget outer(limits);
    try {
        const Template parsed({reinterpret_cast<const char*>(data), size}, limits);
        const Rendered rendered = parsed.render(conversation(), 1);
        if (rendered.text.size() > limits.output) std::abort();
        for (const auto& [begin, end] : rendered.generations)
            if (begin > end || end > rendered.text.size()) std::abort();
    } catch (const Failure&) {
    }
    if (outer.live_bytes() != 0) std::abort();
    return 0;
}
