"""Writes the seeds of fuzz/corpus that are models in small: configs and tensor lists out of tests/goldens, GGUF files with a
vocabulary of every kind, a SentencePiece model, folders of tokenizer files. Standard library only.

    python3 fuzz/make_seeds.py
"""

import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "fuzz/corpus"
F32 = 0


def save(target, name, content):
    path = CORPUS / target / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# ---- configs, tensor lists ----

def golden(model_type):
    config, tensors = {}, {}
    for line in (ROOT / f"tests/goldens/{model_type}.txt").read_text().splitlines():
        kind, rest = line.split(" ", 1)
        if kind == "config":
            config = json.loads(rest)
        elif kind == "tensor":
            name, *shape = rest.split()
            tensors[name] = ["BF16", [int(size) for size in shape]]
    return config, tensors


def two_layers(config, tensors):
    """The same model with its first two layers: a third of the bytes says as much."""
    for key in ("num_hidden_layers", "n_layers"):
        if key in config:
            config[key] = 2
    for key in ("layer_types", "no_rope_layers", "moe_layers"):
        if isinstance(config.get(key), list):
            config[key] = [entry for i, entry in enumerate(config[key]) if (entry if key == "moe_layers" else i) < 2]
    layer_of = lambda name: next((int(part) for part in name.split(".") if part.isdigit()), 0)  # noqa: E731
    return config, {name: form for name, form in tensors.items() if layer_of(name) < 2}


def as_mxfp4(tensors):
    """gpt-oss as it is published: 32 values in 16 bytes, a scale for each."""
    result = {}
    for name, (dtype, shape) in tensors.items():
        if len(shape) == 3:
            result[f"{name}_blocks"] = ["U8", [shape[0], shape[2], shape[1] // 32, 16]]
            result[f"{name}_scales"] = ["U8", [shape[0], shape[2], shape[1] // 32]]
        else:
            result[name] = [dtype, shape]
    return result


def models():
    for file in sorted((ROOT / "tests/goldens").glob("*.txt")):
        save("config", file.stem, json.dumps(golden(file.stem)[0]))
    for model_type in ("mixtral", "qwen2_moe", "phi3", "gpt_oss", "dbrx", "granitemoeshared", "deepseek_v3", "llama4_text"):
        config, tensors = two_layers(*golden(model_type))
        save("layout", model_type, json.dumps({"config": config, "tensors": tensors}))
        if model_type == "gpt_oss":
            save("layout", "gpt_oss_mxfp4", json.dumps({"config": config, "tensors": as_mxfp4(tensors)}))


# ---- GGUF ----

def gguf_string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_value(value):
    """(type, bytes) of a metadata value; floats and lists of one kind included."""
    if isinstance(value, bool):
        return 7, struct.pack("<B", value)
    if isinstance(value, int):
        return 5, struct.pack("<i", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, gguf_string(value)
    return 9, struct.pack("<IQ", gguf_value(value[0])[0], len(value)) + b"".join(gguf_value(entry)[1] for entry in value)


def gguf(metadata, tensors):
    header = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, content = gguf_value(value)
        header += gguf_string(key) + struct.pack("<I", kind) + content
    offset = 0
    for name, shape in tensors.items():
        size = 4
        for dim in shape:
            size *= dim
        header += gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), F32, offset)
        offset += (size + 31) // 32 * 32
    return header + b"\0" * (-len(header) % 32 + offset)


VOCABULARIES = {
    "gpt2": {"pre": "llama-bpe", "tokens": ["a", "b", "ab", "Ġ", "<s>"], "token_type": [1, 1, 1, 1, 3], "merges": ["a b"]},
    "llama": {"tokens": ["<unk>", "<s>", "</s>", "<0x61>", "▁", "a", "▁a"], "token_type": [2, 3, 3, 6, 1, 1, 1],
              "scores": [0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0]},
    "gemma4": {"tokens": ["<pad>", "a", "b", "ab", "▁"], "token_type": [3, 1, 1, 1, 1], "merges": ["a b"]},
}


def gguf_models():
    llama = {"token_embd.weight": [5, 8], "output_norm.weight": [8], "blk.0.attn_norm.weight": [8], "blk.0.ffn_norm.weight": [8],
             "blk.0.attn_q.weight": [8, 8], "blk.0.attn_k.weight": [4, 8], "blk.0.attn_v.weight": [4, 8], "blk.0.attn_output.weight": [8, 8]}
    dense = {"blk.0.ffn_gate.weight": [12, 8], "blk.0.ffn_up.weight": [12, 8], "blk.0.ffn_down.weight": [8, 12]}
    experts = {"blk.0.ffn_gate_inp.weight": [2, 8], "blk.0.ffn_gate_exps.weight": [2, 12, 8], "blk.0.ffn_up_exps.weight": [2, 12, 8],
               "blk.0.ffn_down_exps.weight": [2, 8, 12]}
    shared = {"blk.0.ffn_gate_inp_shexp.weight": [8], "blk.0.ffn_gate_shexp.weight": [10, 8], "blk.0.ffn_up_shexp.weight": [10, 8],
              "blk.0.ffn_down_shexp.weight": [8, 10]}
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": 8, "feed_forward_length": 12, "attention.head_count": 2,
             "attention.head_count_kv": 1, "rope.freq_base": 10000.0, "attention.layer_norm_rms_epsilon": 1e-5}
    some_experts = {"expert_count": 2, "expert_used_count": 1, "expert_feed_forward_length": 12}
    kinds = {
        "llama": ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, llama | dense),
        "llama3": ("llama", {}, llama | dense | {"rope_freqs.weight": [2]}),
        "mixtral": ("llama", some_experts, llama | experts),
        "qwen2moe": ("qwen2moe", some_experts, llama | experts | shared | {f"blk.0.attn_{x}.bias": [n] for x, n in (("q", 8), ("k", 4), ("v", 4))}),
        "qwen3moe": ("qwen3moe", some_experts | {"attention.key_length": 4, "attention.value_length": 4},
                     llama | experts | {"blk.0.attn_q_norm.weight": [4], "blk.0.attn_k_norm.weight": [4]}),
    }
    for (name, (architecture, changes, tensors)), vocabulary in zip(kinds.items(), [*VOCABULARIES, *VOCABULARIES]):
        metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in (sizes | changes).items()},
                    "tokenizer.ggml.model": vocabulary, **{f"tokenizer.ggml.{key}": value for key, value in VOCABULARIES[vocabulary].items()},
                    "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
        save("gguf_model", name, gguf(metadata, tensors))


# ---- tokenizers ----

def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, value):
    """A field of a protocol buffer: a number, a float or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def charsmap():
    """A double array that maps "a" to "b": one inner unit, one leaf."""
    units = [0] * 256
    units[0] = 1 << 10                       # children start at 1
    units[1 ^ ord("a")] = 1 << 8 | ord("a") | (1 ^ ord("a") ^ 2) << 10
    units[2] = 1 << 31
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + b"b\0"


def sentencepiece(model_type, pieces):
    body = b"".join(field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces)
    return body + field(2, field(3, model_type) + field(35, 1 if model_type == 2 else 0)) + field(3, field(1, b"none") + field(3, 1))


def tokenizers():
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁", -1.0, 1), ("a", -2.0, 1), ("b", -2.5, 1), ("▁a", -1.5, 1)]
    save("sentencepiece", "unigram", sentencepiece(1, pieces))
    save("sentencepiece", "bpe", sentencepiece(2, pieces + [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]))
    save("charsmap", "one_letter", charsmap())
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3}, "merges": ["a b"]}
    save("model_folder", "tokenizer_json", json.dumps({
        "tokenizer.json": {"model": model, "added_tokens": [{"id": 3, "content": "<s>", "special": True}]},
        "tokenizer_config.json": {"bos_token": {"content": "<s>"}, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True,
                                  "chat_template": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"},
        "generation_config.json": {"eos_token_id": [1, 2]}, "config.json": {"bos_token_id": 3}}))
    save("model_folder", "vocab_and_merges", json.dumps({
        "vocab.json": model["vocab"], "merges.txt": "#version: 0.2\na b\n", "added_tokens.json": {"<x>": 4}, "special_tokens_map.json": {"pad_token": "<x>"},
        "chat_template.json": {"chat_template": "{{ messages[0].content }}"}}))
    for name, expression in {
        "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
        "classes": r"[[:alpha:]&&[^a-c]]+|\h{2}|\A\w\b|(?<=x)y|\x{263a}|(?>a+)b|\R",
        "backtracking": r"(a+)+$",
    }.items():
        save("regex", name, expression + "\nab don't 123 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! é\n  x\r\n")


# ---- recipes, journals ----

RECIPE = """base_model: base
gate_mode: hidden
dtype: bfloat16
experts_per_token: 2
experts:
  - source_model: org/name@v1+lora
    positive_prompts: &p [one, "two\\n"]
    negative_prompts: [three]
    noise_scale: 0.1
  - {source_model: other, positive_prompts: [four], residual_scale: 0.5}
shared_experts:
  - source_model: base
    positive_prompts: *p
"""
RIDGE = """base_model: base
gate_mode: ridge
gate_input: router
layers: 2-5
ridge: {tokens_per_expert: 20000, context: 256, held_out: 0.1}
experts:
- {source_model: a, data: text.txt}
- {source_model: b, data: [x, y.jsonl]}
"""


def recipes():
    save("recipe", "hidden", RECIPE)
    save("recipe", "ridge", RIDGE)
    save("recipe", "aliases", "a: &a [1, 1]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nexperts: [*c, *c]\n")
    save("journal", "two_shards", '{"plan":"00"}\n{"shard":"model-00001-of-00002.safetensors","sha256":"11"}\n')
    save("journal", "torn", '{"plan":"00"}\n{"shard":"mod')


if __name__ == "__main__":
    models()
    gguf_models()
    tokenizers()
    recipes()
