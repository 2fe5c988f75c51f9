"""Training a Chain-of-Experts model, ours beside PyTorch with the original code's dispatch, on the same weights and batches:

    run.py BINARY [--steps 50] [--threads 2] [--pairs 1]

DeepSeek-V2 form, hidden 256, 31 experts of 128, top-3, 2 iterations, f32, batch 8 x 256. Prints tokens/s, CPU seconds and peak
memory of each in alternation, the share of the measured GEMM rate our steps reach, and the largest difference of the losses.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src/arch/remote"), str(ROOT / "tests/oracle")]
BATCH, LENGTH, VOCAB, LAYERS = 8, 256, 2048, 4
CONFIG = dict(
    model_type="coe_deepseekv2", vocab_size=VOCAB, hidden_size=256, intermediate_size=512, moe_intermediate_size=128, num_hidden_layers=LAYERS,
    num_attention_heads=8, num_key_value_heads=8, n_routed_experts=31, num_experts_per_tok=3, n_shared_experts=1, kv_lora_rank=64,
    q_lora_rank=None, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, first_k_dense_replace=0, moe_layer_freq=1, inner_iter=2,
    inner_residual=True, outer_residual=False, use_igate=True, norm_topk_prob=False, topk_method="greedy", n_group=1, topk_group=1,
    routed_scaling_factor=1.0, max_position_embeddings=1024, rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0)
OPTIMIZER = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, clip=1.0)


def matrix_flops(tokens):
    """Multiply-adds of the matrix products of a training step, forward and backward, times two; attention scores left out."""
    c = CONFIG
    d, heads = c["hidden_size"], c["num_attention_heads"]
    query = d * heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
    keys = d * (c["kv_lora_rank"] + c["qk_rope_head_dim"]) + c["kv_lora_rank"] * heads * (c["qk_nope_head_dim"] + c["v_head_dim"])
    expert = 3 * d * c["moe_intermediate_size"]
    moe = c["inner_iter"] * ((c["num_experts_per_tok"] + c["n_shared_experts"]) * expert + c["n_routed_experts"] * d)
    return 6 * tokens * (LAYERS * (query + keys + heads * c["v_head_dim"] * d + moe) + d * VOCAB)


def reference_dispatch(self, x, gate):
    """As the original trains: tokens repeated k times, a boolean mask for every expert."""
    import torch

    weights, chosen = gate(x)
    flat = chosen.view(-1)
    repeated = x.repeat_interleave(gate.top_k, dim=0)
    y = torch.empty_like(repeated)
    for i, expert in enumerate(self.experts):
        y[flat == i] = expert(repeated[flat == i])
    y = (y.view(*weights.shape, -1) * weights.unsqueeze(-1)).sum(dim=1)
    return y + self.shared_experts(x)


def make_model(folder):
    """Random weights and a byte tokenizer, saved as a checkpoint."""
    import torch
    from modeling_coe_deepseekv2 import CoeDeepseekv2Config, CoeDeepseekv2ForCausalLM
    from test_train import add_tokenizer

    torch.manual_seed(0)
    CoeDeepseekv2ForCausalLM(CoeDeepseekv2Config(**CONFIG)).save_pretrained(folder)
    add_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "dtype": "float32", "architectures": ["CoeForCausalLM"]}))


def stream_of(folder, text):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def train_reference(folder, stream, steps, threads):
    import torch
    from modeling_coe_deepseekv2 import CoeDeepseekv2ForCausalLM, CoeDeepseekv2MoE

    torch.set_num_threads(threads)
    CoeDeepseekv2MoE.route_and_run = reference_dispatch
    model = CoeDeepseekv2ForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    decays = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [dict(params=decays, weight_decay=OPTIMIZER["weight_decay"]), dict(params=rest, weight_decay=0)]
    optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER["lr"], betas=OPTIMIZER["betas"], eps=OPTIMIZER["eps"], fused=True)
    rows = [stream[i:i + LENGTH + 1] for i in range(0, len(stream) - LENGTH, LENGTH)]
    losses, seconds, used = [], [], 0
    for step in range(steps):
        batch = torch.tensor([rows[(step * BATCH + b) % len(rows)] for b in range(BATCH)])
        start, cpu = time.perf_counter(), time.process_time()
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip"])
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        used += time.process_time() - cpu
    return dict(losses=losses, seconds=seconds, cpu_seconds=used, peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def train_ours(binary, folder, steps, threads):
    out = folder.parent / "trained"
    recipe = folder.parent / "recipe.yaml"
    recipe.write_text(json.dumps(dict(model="model", data="data.txt", steps=steps, batch_size=BATCH, seq_len=LENGTH, lr=OPTIMIZER["lr"], min_lr=OPTIMIZER["lr"],
                                      schedule="constant", betas=OPTIMIZER["betas"], weight_decay=OPTIMIZER["weight_decay"], clip=OPTIMIZER["clip"], dtype="float32",
                                      shuffle=False, save_every=0)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([binary, "train", recipe, out, "--threads", str(threads), "--force", "--json", "--progress", "none"], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in (out / "train_metrics.jsonl").read_text().splitlines()]
    return dict(losses=[line["loss"] for line in lines], seconds=[line["seconds"] for line in lines],
                cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak_rss=json.loads(result.stdout)["peak_rss_bytes"])


def gemm_rate(threads):
    """f32 FLOPS of products of the size the experts have, several at once."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2048, 512), torch.randn(512, 512)
    best = 0
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(10):
            a @ b
        best = max(best, 10 * 2 * 2048 * 512 * 512 / (time.perf_counter() - start))
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=1, help="how often the two run, in alternation")
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = ROOT / "build/bench/train/model"
    if options.reference:
        result = train_reference(folder, stream_of(folder, (folder.parent / "data.txt").read_text()), options.steps, options.threads)
        options.reference.write_text(json.dumps(result))
        return

    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder)
    (folder.parent / "data.txt").write_text(" ".join(f"{i} times {i % 97} makes {i * (i % 97)}; " for i in range(40_000)))
    tokens, ours, theirs = BATCH * LENGTH, [], []
    for _ in range(options.pairs):
        ours.append(train_ours(options.binary.resolve(), folder, options.steps, options.threads))
        report = folder.parent / "reference.json"
        subprocess.run([sys.executable, __file__, options.binary, "--steps", str(options.steps), "--threads", str(options.threads), "--reference", report], check=True)
        theirs.append(json.loads(report.read_text()))
    rate = gemm_rate(options.threads)
    print(f"{'':<14} {'tokens/s':>9} {'CPU s/step':>11} {'peak MB':>8}  (median of {options.steps} steps, {options.threads} threads, {options.pairs} runs each)")
    speed = {}
    for name, runs in (("mixwright", ours), ("PyTorch", theirs)):
        speed[name] = statistics.median(tokens / s for run in runs for s in run["seconds"][2:])
        cpu = statistics.median(run["cpu_seconds"] / options.steps for run in runs)
        print(f"{name:<14} {speed[name]:>9.0f} {cpu:>11.3f} {max(run['peak_rss'] for run in runs) / 1e6:>8.0f}")
    print(f"ratio {speed['mixwright'] / speed['PyTorch']:.2f}; {matrix_flops(tokens) / 1e9:.1f} GFLOP a step, {speed['mixwright'] / tokens * matrix_flops(tokens) / rate:.0%} of the "
          f"measured GEMM rate {rate / 1e9:.0f} GFLOPS")
    worst = max(abs(a - b) / b for a, b in zip(ours[0]["losses"], theirs[0]["losses"]))
    print(f"losses {theirs[0]['losses'][0]:.4f} -> {theirs[0]['losses'][-1]:.4f}, largest relative difference {worst:.1e}")


if __name__ == "__main__":
    main()
