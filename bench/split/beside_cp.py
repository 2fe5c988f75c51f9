"""`split --all` of a Mixtral in the shape of the 7B, beside `cp` of what it writes: both end with the bytes on the disk.

    python bench/split/beside_cp.py BINARY [--layers 2] [--folder build/bench]

Random bf16 weights, 8 experts of 14,336 neurons, hidden size 4,096. With two layers the mixture has 6 GB and the eight dense models 7.5 GB;
twice that is needed for the copy."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, WIDTH, EXPERTS, HEADS, KV_HEADS, VOCABULARY = 4096, 14336, 8, 32, 8, 4096


def random_mixtral(folder, layers):
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    block = torch.empty(WIDTH * HIDDEN, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
    weights = {"weight_map": {}, "metadata": {"total_size": 0}}

    def save(file, shapes):
        # Each tensor is the random block turned by another amount: as random for a copy, and made a hundred times faster.
        tensors = {name: block.roll(31 * i)[: rows * cols].view(rows, cols).clone() if cols else torch.ones(rows, dtype=torch.bfloat16) for i, (name, (rows, cols)) in enumerate(shapes.items())}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weights["weight_map"].update(dict.fromkeys(tensors, file))
        weights["metadata"]["total_size"] += sum(t.numel() * 2 for t in tensors.values())

    for layer in range(layers):
        p = f"model.layers.{layer}."
        shapes = {p + "input_layernorm.weight": (HIDDEN, 0), p + "post_attention_layernorm.weight": (HIDDEN, 0), p + "block_sparse_moe.gate.weight": (EXPERTS, HIDDEN)}
        for name, rows in (("q", HIDDEN), ("k", KV_HEADS * HIDDEN // HEADS), ("v", KV_HEADS * HIDDEN // HEADS), ("o", HIDDEN)):
            shapes[p + f"self_attn.{name}_proj.weight"] = (rows, HIDDEN)
        for e in range(EXPERTS):
            for name, shape in (("w1", (WIDTH, HIDDEN)), ("w2", (HIDDEN, WIDTH)), ("w3", (WIDTH, HIDDEN))):
                shapes[p + f"block_sparse_moe.experts.{e}.{name}.weight"] = shape
        save(f"model-{layer + 1:05d}-of-{layers + 1:05d}.safetensors", shapes)
    save(f"model-{layers + 1:05d}-of-{layers + 1:05d}.safetensors",
         {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN, 0), "lm_head.weight": (VOCABULARY, HIDDEN)})
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    (folder / "config.json").write_text(json.dumps(dict(
        architectures=["MixtralForCausalLM"], model_type="mixtral", vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=1e6, num_local_experts=EXPERTS,
        num_experts_per_tok=2, tie_word_embeddings=False, hidden_act="silu", torch_dtype="bfloat16", bos_token_id=1, eos_token_id=2)))
    # Bytes as tokens, for fits.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={**{c: i + 3 for i, c in enumerate(alphabet)}, "</s>": 2}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def timed(*commands):
    os.sync()
    start = time.monotonic()
    for command in commands:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
    return time.monotonic() - start, done.stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--runs", type=int, default=2)
    arguments = parser.parse_args()
    moe, out, copy = (arguments.folder / name for name in ("mixtral-7b-shaped", "split-out", "split-copy"))
    if not moe.exists():
        random_mixtral(moe, arguments.layers)
    print("| | seconds | GB/s | peak RSS MB |\n|---|--:|--:|--:|")
    ratios = []
    for _ in range(arguments.runs):
        for folder in (out, copy):
            shutil.rmtree(folder, ignore_errors=True)
        seconds, stdout = timed([arguments.binary, "split", moe, out, "--all", "--json", "--progress", "none"])
        done = json.loads(stdout)
        copied, _ = timed(["cp", "-r", out, copy], ["sync"])
        ratios.append(seconds / copied)
        print(f"| split --all | {seconds:.1f} | {done['bytes'] / seconds / 1e9:.2f} | {done['peak_rss_bytes'] / 1e6:.0f} |")
        print(f"| cp -r and sync of the same | {copied:.1f} | {done['bytes'] / copied / 1e9:.2f} | |", flush=True)
    print(f"\nsplit over copy: {min(ratios):.2f}x at best of {arguments.runs}, {max(ratios):.2f}x at worst")
    for folder in (out, copy):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
