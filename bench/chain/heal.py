"""A trained mixture of experts chained and healed, against the same mixture fine-tuned, for as many steps on the same batches:

    heal.py BINARY MODEL [--iterations 2] [--steps 200] [--seeds 3] [--texts DIR]

MODEL's top k becomes k/C in each of C iterations, so that a token costs as many expert products in both. Where MODEL has a shared
expert, which runs in every iteration, the chain costs that much more, and the table says so. Prints and writes heal-NAME.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from measure import interval, run

ROOT = Path(__file__).resolve().parents[2]


def train(model, seed, options):
    """Held-out loss before and after, and the figures of the run."""
    name = f"{model.name}-n{options.steps}-lr{options.lr}-s{seed}"
    report = options.out / f"{name}.json"
    if report.exists():
        return json.loads(report.read_text())
    recipe, out = options.out / f"{name}.yaml", options.out / f"{name}.trained"
    recipe.write_text(json.dumps(dict(
        model=str(model), data=str(options.texts / "train.jsonl"), eval_data=str(options.texts / "held_out.jsonl"), steps=options.steps,
        batch_size=options.batch, seq_len=options.length, lr=options.lr, min_lr=options.lr / 10, warmup=0.05, weight_decay=0.01, clip=1.0, balance_loss=0.01,
        dtype="float32", seed=seed, eval_tokens=options.eval_tokens, save_every=0)))
    row = run(options.binary, "train", recipe, out, "--force", "--threads", options.threads)
    report.write_text(json.dumps(row))
    subprocess.run(["rm", "-r", out], check=True)
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--eval-tokens", type=int, default=32_768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=Path, default=ROOT / "build/zoo/texts")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/chain")
    options = parser.parse_args()
    options.binary, options.texts, options.out = (path.resolve() for path in (options.binary, options.texts, options.out))
    options.out.mkdir(parents=True, exist_ok=True)
    source = options.model.resolve()
    chained = options.out / f"{source.name}-c{options.iterations}"
    cost = run(options.binary, "chain", source, chained, "--iterations", options.iterations, "--force")["flops_per_token"]
    rows = {"fine-tuned": [], "chained and healed": []}
    for seed in range(options.seeds):
        for kind, model in zip(rows, (source, chained)):
            rows[kind].append(train(model, seed, options))
            print(f"{kind:<19} seed {seed}: held-out loss {rows[kind][-1]['eval_loss_before']:.4f} -> {rows[kind][-1]['eval_loss_after']:.4f}", flush=True)
    lines = [f"{source.name}, {options.iterations} iterations, {options.steps} steps of {options.batch * options.length} tokens at {options.lr:g}, "
             f"{options.seeds} seeds; the chain costs {cost / 1e6:.1f} MFLOP a token. Held-out loss in nats.", "", "| | before | after | tokens/s |", "|---|---|---|---|"]
    for kind, runs in rows.items():
        after, half = interval([row["eval_loss_after"] for row in runs])
        lines.append(f"| {kind} | {runs[0]['eval_loss_before']:.4f} | {after:.4f}{'' if half != half else f' ± {half:.4f}'} | "
                     f"{statistics.mean(row['tokens_per_second'] for row in runs):.0f} |")
    gap, half = interval([a["eval_loss_after"] - b["eval_loss_after"] for a, b in zip(rows["chained and healed"], rows["fine-tuned"])])
    lines.append(f"\nChained and healed against fine-tuned: {gap:+.4f}{'' if half != half else f' ± {half:.4f}'}")
    text = "\n".join(lines) + "\n"
    (options.out / f"heal-{source.name}.md").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
