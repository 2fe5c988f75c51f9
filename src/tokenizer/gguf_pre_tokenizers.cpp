#include "tokenizer/gguf_pre_tokenizers.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>

#include "error.h"

namespace mixwright::tokenizer {
namespace {

using io::Json;

// How a family cuts text. Several words share one.
enum class Cut {
    gpt2, digits_gpt2, llama3, qwen2, qwen35, tekken, gpt4o, deepseek_llm, deepseek_coder, deepseek_v3, falcon, bloom, viking,
    stablelm2, superbpe, seed_coder, bailing, exaone_moe, no_contractions, minicpm5
};

struct Row {
    std::string_view pre;
    Cut cut;
    bool ignore_merges = false, add_bos = false, nfc = false;
};

constexpr std::array rows{
    Row{"gpt-2", Cut::gpt2}, Row{"gpt2", Cut::gpt2}, Row{"phi-2", Cut::gpt2}, Row{"mpt", Cut::gpt2}, Row{"olmo", Cut::gpt2, false, false, true},
    Row{"jais", Cut::gpt2}, Row{"trillion", Cut::gpt2}, Row{"gigachat", Cut::gpt2}, Row{"exaone4", Cut::gpt2}, Row{"a.x-4.0", Cut::gpt2},
    Row{"mellum", Cut::gpt2}, Row{"modern-bert", Cut::gpt2, false, false, true}, Row{"granite-docling", Cut::gpt2},
    Row{"smollm", Cut::digits_gpt2}, Row{"starcoder", Cut::digits_gpt2}, Row{"refact", Cut::digits_gpt2},
    Row{"command-r", Cut::digits_gpt2, false, false, true}, Row{"codeshell", Cut::digits_gpt2}, Row{"exaone", Cut::digits_gpt2},
    Row{"minerva-7b", Cut::digits_gpt2}, Row{"mellum2", Cut::digits_gpt2},
    Row{"llama-bpe", Cut::llama3, true, true}, Row{"llama3", Cut::llama3, true, true}, Row{"llama-v3", Cut::llama3, true, true},
    Row{"falcon3", Cut::llama3, true, true}, Row{"falcon-h1", Cut::llama3, true, true}, Row{"pixtral", Cut::llama3, true, true},
    Row{"midm-2.0", Cut::llama3, true, true}, Row{"lfm2", Cut::llama3, true, true}, Row{"dbrx", Cut::llama3}, Row{"smaug-bpe", Cut::llama3},
    Row{"chatglm-bpe", Cut::llama3}, Row{"glm4", Cut::llama3, true}, Row{"glm5", Cut::llama3, true},
    Row{"qwen2", Cut::qwen2, false, false, true}, Row{"deepseek-r1-qwen", Cut::qwen2, false, false, true},
    Row{"megrez", Cut::qwen2, false, false, true}, Row{"hunyuan", Cut::qwen2}, Row{"solar-open", Cut::qwen2}, Row{"grok-2", Cut::qwen2},
    Row{"kormo", Cut::qwen2}, Row{"f2llmv2", Cut::qwen2}, Row{"qwen35", Cut::qwen35}, Row{"stablelm2", Cut::stablelm2},
    Row{"tekken", Cut::tekken, true, true}, Row{"gpt-4o", Cut::gpt4o}, Row{"llama4", Cut::gpt4o, false, true}, Row{"minimax-m2", Cut::gpt4o},
    Row{"deepseek-llm", Cut::deepseek_llm}, Row{"deepseek-coder", Cut::deepseek_coder}, Row{"deepseek-v3", Cut::deepseek_v3},
    Row{"hunyuan-dense", Cut::deepseek_v3}, Row{"joyai-llm", Cut::deepseek_v3}, Row{"falcon", Cut::falcon}, Row{"bloom", Cut::bloom},
    Row{"poro-chat", Cut::bloom}, Row{"gpt3-finnish", Cut::bloom}, Row{"viking", Cut::viking}, Row{"superbpe", Cut::superbpe},
    Row{"seed-coder", Cut::seed_coder}, Row{"bailingmoe", Cut::bailing}, Row{"exaone-moe", Cut::exaone_moe},
    Row{"ufakzeka", Cut::no_contractions}, Row{"minicpm5", Cut::minicpm5, true},
};

Json split(const char* regex) {
    return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json digits(bool individual) { return {{"type", "Digits"}, {"individual_digits", individual}}; }

Json byte_level(bool use_regex) {
    return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

// Steps of a family before the bytes; the last step is added by pre_tokenizer().
Json regex_steps(Cut cut) {
    const auto steps = [](std::initializer_list<const char*> expressions) {
        Json list = Json::array();
        for (const char* expression : expressions) list.push_back(split(expression));
        return list;
    };
    switch (cut) {
        case Cut::llama3:
            return steps({R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"});
        case Cut::qwen2:
        case Cut::stablelm2:
            return steps({R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"});
        case Cut::qwen35:
            return steps({R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"});
        case Cut::tekken:
            return steps({R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"});
        case Cut::gpt4o:
            return steps({R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"});
        case Cut::deepseek_llm: {
            Json list = steps({"[\r\n]",
                               R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-)"
                               R"(\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-)"
                               R"(\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-)"
                               R"(\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77})"
                               R"(\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-)"
                               R"(\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE})"
                               R"(\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-)"
                               R"(\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124})"
                               R"(\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149})"
                               R"(\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3})"
                               R"(\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-)"
                               R"(\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F})"
                               R"(\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF})"
                               R"(\x{1E900}-\x{1E943}]+)",
                               "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+", "\\s+$", "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"});
            list.push_back(digits(true));
            return list;
        }
        case Cut::deepseek_coder: {
            Json list = steps({"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"});
            list.push_back(digits(true));
            return list;
        }
        case Cut::deepseek_v3:
            return steps({"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+",
                          "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"});
        case Cut::bloom: return steps({R"( ?[^(\s|[.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C}])]+)"});
        case Cut::viking: return steps({R"( ?[^(\s|[.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C}])]+)", R"(\p{N})"});
        case Cut::superbpe: return steps({R"(\p{N}+)", R"((?=(\d{3})+(?!\d)))"});
        case Cut::seed_coder:
            return steps({R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)"});
        case Cut::bailing:
            return steps({R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"});
        case Cut::exaone_moe:
            return steps({R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)"});
        case Cut::no_contractions:
            return steps({R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"});
        case Cut::minicpm5:
            return steps({R"(\p{N}{1,3})", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"});
        case Cut::gpt2: case Cut::digits_gpt2: case Cut::falcon: break;
    }
    return Json::array();
}

Json pre_tokenizer(Cut cut) {
    Json steps = Json::array();
    if (cut == Cut::gpt2) return byte_level(true);
    if (cut == Cut::digits_gpt2) {
        steps = {digits(true), byte_level(true)};
    } else if (cut == Cut::falcon) {
        steps = {Json{{"type", "Punctuation"}, {"behavior", "Contiguous"}}, byte_level(true), digits(false), split("[0-9][0-9][0-9]")};
    } else {
        steps = regex_steps(cut);
        steps.push_back(byte_level(false));
    }
    return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

}  // namespace

GgufPreTokenizer gguf_pre_tokenizer(std::string_view pre, std::string_view source) {
    const auto row = std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return r.pre == pre; });
    if (row == rows.end())
        throw Error(ErrorCode::unsupported,
                    fmt::format("{}: tokenizer.ggml.pre: the pre-tokenizer \"{}\" is not known", source, printable(pre)),
                    "use the model's Hugging Face directory, which brings its own tokenizer.json");
    GgufPreTokenizer result;
    if (row->nfc) result.normalizer = {{"type", "NFC"}};
    result.pre_tokenizer = pre_tokenizer(row->cut);
    result.ignore_merges = row->ignore_merges;
    result.add_bos = row->add_bos;
    return result;
}

}  // namespace mixwright::tokenizer
