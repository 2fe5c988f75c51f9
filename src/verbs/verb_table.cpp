#include "verbs/verb_table.h"

#include <array>

namespace mixwright::verbs {
namespace {

const std::array table{
    VerbEntry{"build", "a mixture of experts from dense models",
              "  mixwright build recipe.yml ./my-moe --dry-run\n"
              "  mixwright build recipe.yml ./my-moe\n"
              "  mixwright build recipe.yml ./my-moe --resume\n",
              make_build},
    VerbEntry{"split", "dense models out of a mixture of experts",
              "  mixwright split ./my-moe ./experts --all\n"
              "  mixwright split ./moe ./dense --data text.jsonl\n"
              "  mixwright split ./moe ./dense --method concat --width 2816 --data text.jsonl\n"
              "  mixwright split ./moe ./dense --experts-per-layer experts.json\n",
              make_split},
    VerbEntry{"profile", "where the tokens of a mixture of experts go",
              "  mixwright profile ./my-moe --data math.jsonl --data code.txt -o stats.safetensors --report routing.html\n"
              "  torchrun --no-python --nproc-per-node 4 mixwright profile ./my-moe --data math.jsonl -o stats.safetensors\n",
              make_profile},
    VerbEntry{"zip", "a smaller mixture of experts, on calibration text",
              "  mixwright zip ./my-moe ./smaller --data text.txt --keep 0.75\n"
              "  mixwright zip ./my-moe ./fewer --data corpus/ --keep 0.5 --method reap --heal 100\n"
              "  mixwright zip ./my-moe ./uneven --data corpus/ --keep 0.5 --format zipped --budget loss\n",
              make_zip},
    VerbEntry{"chain", "a mixture whose experts work on each other's output: Chain-of-Experts",
              "  mixwright chain ./moe ./chained --iterations 2\n"
              "  mixwright chain --config coe.json ./fresh --tokenizer ./moe\n",
              make_chain},
    VerbEntry{"train", "train a model on text: from scratch, whole, in parts, LoRA",
              "  mixwright train recipe.yml ./specialist\n"
              "  mixwright train recipe.yml ./specialist --resume\n"
              "  torchrun --no-python --nproc-per-node 2 mixwright train recipe.yml ./specialist\n",
              make_train},
    VerbEntry{"generate", "text after a prompt",
              "  mixwright generate ./my-moe -p \"Why is the sky blue?\"\n"
              "  mixwright generate ./my-moe -p \"def fibonacci(n):\" --raw -n 64 --temp 0.7 --top-p 0.9\n"
              "  mixwright generate ./my-moe -p \"2 + 2 =\" --raw --trace experts.jsonl\n"
              "  mixwright generate ./my-moe --batch prompts.txt --parallel 8\n",
              make_generate},
    VerbEntry{"chat", "a conversation in the terminal",
              "  mixwright chat ./my-moe\n"
              "  mixwright chat ./my-moe -sys \"Answer in one sentence.\" --temp 0\n",
              make_chat},
    VerbEntry{"eval", "how good a model is: perplexity, multiple choice, exact match",
              "  mixwright eval ./my-moe --task ppl:wiki.test.txt --task ppl:code.jsonl\n"
              "  mixwright eval ./my-moe --task mc:logiqa-en.jsonl --task gen:gsm8k.jsonl --limit 200\n"
              "  mixwright eval ./large-moe --task ppl:wiki.test.txt --limit 100000 --stream-layers --json\n",
              make_eval},
    VerbEntry{"bench", "how fast a model reads and writes on this machine",
              "  mixwright bench ./my-moe\n"
              "  mixwright bench ./my-moe -p 2048 -b 1 -n 256 --json\n",
              make_bench},
    VerbEntry{"import", "a GGUF as a Hugging Face directory",
              "  mixwright import SmolLM2-135M-Instruct.Q4_1.gguf ./smollm2\n"
              "  mixwright import model-00001-of-00003.gguf ./model --dtype float16\n",
              make_import},
    VerbEntry{"inspect", "what a model is: architecture, parameters, tensors, problems",
              "  mixwright inspect ./my-moe\n"
              "  mixwright inspect Qwen/Qwen3-0.6B --json\n"
              "  mixwright inspect model.gguf --verify\n",
              make_inspect},
    VerbEntry{"relayout", "the same weights with experts one by one, or stacked",
              "  mixwright relayout ./mixtral-of-mergekit ./mixtral --layout per-expert\n"
              "  mixwright relayout ./moe ./moe-fused --layout fused --out-shard-size 2GB\n",
              make_relayout},
    VerbEntry{"tokenize", "the token ids of text, and back",
              "  mixwright tokenize ./my-moe -f text.txt\n"
              "  mixwright tokenize tokenizer.json --decode -f ids.jsonl\n",
              make_tokenize},
    VerbEntry{"logits", "logits for given token ids, for comparisons with other implementations",
              "  mixwright logits ./my-moe --ids ids.json -o logits.safetensors\n"
              "  mixwright logits ./my-moe --ids ids.json -o logits.safetensors --dtype bfloat16 --stream-layers\n",
              make_logits},
};

}  // namespace

std::span<const VerbEntry> verb_table() { return table; }

}  // namespace mixwright::verbs
