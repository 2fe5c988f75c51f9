"""Chaining experts against not chaining them, at equal compute, on held-out text:

    run.py BINARY [--forms moe,stream2,ref-coe:experts=48,...] [--base FORM] [--steps 450] [--seeds 3] [--hidden 256] [--experts 16] [--texts DIR]

Every form is trained from scratch by `mixwright train` on the texts of the zoo (tools/zoo/texts.py) with the same batches; a token
costs the same number of expert products in each: iterations times top_k is 4 (or --budget). `:experts=N`, `:layers=N` or `:budget=N` behind a form
gives it other sizes than the rest. Differences are to --base (the first form), seed by seed. Runs that are done are kept in
build/bench/chain and not repeated, so that longer lists and more seeds add to a table; an interrupted one goes on. Prints and writes table.md and curves.svg.
"""

import argparse
import copy
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from measure import interval

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = dict(inner_residual=True, outer_residual=False, use_igate=True)
STREAM = dict(chain_form="stream", use_igate=True)

# name -> (iterations, what differs, what it is)
FORMS = {
    "moe": (1, dict(STREAM), "ordinary pre-norm MoE, x + MoE(u)"),
    "ref-moe": (1, REFERENCE, "the reference's MoE baseline, u + MoE(u)"),
    "ref-coe": (2, REFERENCE, "the reference's chain"),
    "ref-coe4": (4, REFERENCE, "the reference's chain, 4 iterations"),
    "ref-shared-gates": (2, {**REFERENCE, "use_igate": False}, "... one router for both iterations"),
    "ref-no-inner": (2, {**REFERENCE, "inner_residual": False, "outer_residual": True}, "... outer residual alone"),
    "both-residuals": (2, {**REFERENCE, "outer_residual": True}, "... inner and outer residual"),
    "both-moe": (1, {**REFERENCE, "outer_residual": True}, "one iteration with both residuals, x + u + MoE(u)"),
    "stream2": (2, STREAM, "kept stream, norm before each iteration"),
    "stream4": (4, STREAM, "... 4 iterations"),
    "stream2-half": (2, {**STREAM, "chain_scale": 0.5}, "... increments scaled by 1/2"),
    "stream2-shared": (2, {**STREAM, "use_igate": False}, "... one router for both iterations"),
    "stream4-shared": (4, {**STREAM, "use_igate": False}, "... 4 iterations, one router for all"),
    "moe-normed": (1, {**STREAM, "norm_topk_prob": True}, "ordinary pre-norm MoE, weights of the chosen experts sum to one"),
    "stream2-normed": (2, {**STREAM, "norm_topk_prob": True}, "kept stream, weights of the chosen sum to one in each iteration"),
    "stream2-normed-shared": (2, {**STREAM, "norm_topk_prob": True, "use_igate": False}, "... one router for both iterations"),
}


SIZES = ("experts", "layers", "budget")


def with_sizes(form, options):
    """The name of a form in FORMS and the options, with what stands behind its name."""
    name, *sizes = form.split(":")
    options = copy.copy(options)
    for size in sizes:
        key, _, value = size.partition("=")
        if key not in SIZES or not value.isdigit():
            raise SystemExit(f"{form}: behind a form stands {', '.join(f':{s}=N' for s in SIZES)}")
        setattr(options, key, int(value))
    if name not in FORMS:
        raise SystemExit(f"unknown form {name}; known: {', '.join(FORMS)}")
    return name, options


def described(form):
    name, *sizes = form.split(":")
    return ", ".join([FORMS[name][2], *(size.replace("=", " ") for size in sizes)])


def config_of(form, options):
    iterations, changes, _ = FORMS[form]
    if options.budget % iterations:
        raise SystemExit(f"{form}: a budget of {options.budget} experts does not divide among {iterations} iterations")
    h = options.hidden
    return dict(
        model_type="coe_deepseekv2", hidden_size=h, intermediate_size=2 * h, moe_intermediate_size=h // 2, num_hidden_layers=options.layers,
        num_attention_heads=8, num_key_value_heads=8, n_routed_experts=options.experts, num_experts_per_tok=options.budget // iterations, n_shared_experts=0,
        kv_lora_rank=h // 4, q_lora_rank=None, qk_nope_head_dim=h // 8, qk_rope_head_dim=h // 16, v_head_dim=h // 8, first_k_dense_replace=0,
        inner_iter=iterations, norm_topk_prob=False, topk_method="greedy", n_group=1, topk_group=1, max_position_embeddings=1024,
        tie_word_embeddings=True, rms_norm_eps=1e-6) | changes


def train(form, seed, options):
    form, options = with_sizes(form, options)
    name = f"{form}-h{options.hidden}-l{options.layers}-e{options.experts}-b{options.budget}-n{options.steps}-s{seed}"
    out = options.out / name
    report = options.out / f"{name}.json"
    recipe = options.out / f"{name}.yaml"
    text = json.dumps(dict(
        config=config_of(form, options), tokenizer=str(options.texts / "tokenizer"), data=str(options.texts / "train.jsonl"),
        eval_data=str(options.texts / "held_out.jsonl"), steps=options.steps, batch_size=8, seq_len=options.length, lr=options.lr, min_lr=options.lr / 10,
        warmup=0.1, weight_decay=0.01, clip=1.0, sequence_balance_loss=0.001, dtype="float32", seed=seed, eval_every=max(options.steps // 6, 1),
        eval_tokens=options.eval_tokens, save_every=options.save_every))
    same = recipe.exists() and recipe.read_text() == text  # of another length or rate it is another run
    if same and report.exists():
        return json.loads(report.read_text())
    recipe.write_text(text)
    log = options.out / f"{name}.log"
    resumed = same and Path(f"{out}.training").exists()
    with log.open("w+") as printed:
        process = subprocess.Popen([options.binary, "train", recipe, out, "--json", "--resume" if resumed else "--force", "--progress", "none",
                                    "--threads", str(options.threads), "--device", options.device], stdout=printed, stderr=printed)
        _, status, used = os.wait4(process.pid, 0)  # its own resources: others may run beside it
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{name}: {log.read_text()}")
    row = json.loads(log.read_text().splitlines()[-1])
    log.unlink()
    lines = [json.loads(line) for line in (out / "train_metrics.jsonl").read_text().splitlines()]
    row["curve"] = [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    row["cpu_seconds"] = None if resumed else used.ru_utime + used.ru_stime
    report.write_text(json.dumps(row))
    subprocess.run(["rm", "-r", out], check=True)  # the weights are not what is asked for
    return row


def seconds(runs):
    """CPU seconds of a run, the mean of those that ran through."""
    known = [row["cpu_seconds"] for row in runs if row["cpu_seconds"] is not None]
    return f"{statistics.mean(known):.0f}" if known else "-"


def table(rows, options):
    lines = [f"{options.steps} steps of {8 * options.length} tokens, hidden {options.hidden}, {options.layers} layers, {options.experts} experts, "
             f"{options.budget} expert products a token and layer, {options.seeds} seeds. Held-out loss in nats.", "",
             f"| form | what | loss | difference to {options.base} | parameters | CPU s | peak MB |", "|---|---|---|---|---|---|---|"]
    base = [row["eval_loss_after"] for row in rows[options.base]]
    for form, runs in rows.items():
        losses = [row["eval_loss_after"] for row in runs]
        mean, half = interval(losses)
        gap = interval([a - b for a, b in zip(losses, base)]) if form != options.base else None
        shown = "" if gap is None else f"{gap[0]:+.4f}" + ("" if math.isnan(gap[1]) else f" ± {gap[1]:.4f}")
        lines.append(f"| {form} | {described(form)} | {mean:.4f}{'' if math.isnan(half) else f' ± {half:.4f}'} | {shown} | {runs[0]['parameters'] / 1e6:.2f} M | "
                     f"{seconds(runs)} | {max(row['peak_rss_bytes'] for row in runs) / 1e6:.0f} |")
    return "\n".join(lines) + "\n"


def curves(rows):
    """Held-out loss over steps, the mean over seeds, as an SVG; the legend in the order of the ends."""
    colours = ["#4c78a8", "#d1495b", "#54a24b", "#e8a838", "#7b5aa6", "#3fb8af", "#9d755d", "#b279a2", "#6b7280", "#f58518", "#72b7b2", "#c9a600", "#8a8f99", "#ff9da6"]
    means = {form: [(points[0][0], statistics.mean(p[1] for p in points)) for points in zip(*(row["curve"][1:] for row in runs))] for form, runs in rows.items()}
    last = max(step for curve in means.values() for step, _ in curve)
    low, high = (pick(loss for curve in means.values() for _, loss in curve) for pick in (min, max))
    left, right, top, bottom = 60, 690, 20, 380
    x_of = lambda step: left + (right - left) * step / last
    y_of = lambda loss: top + (bottom - top) * (high - loss) / ((high - low) or 1)
    tick = next(t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if (high - low) / t <= 8 or t == 2)
    parts = []
    for i in range(math.ceil(low / tick), math.floor(high / tick) + 1):
        y = y_of(i * tick)
        parts.append(f'<path stroke="#8886" d="M{left} {y:.1f}H{right}"/><text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{i * tick:.2f}</text>')
    for step in (0, last // 2, last):
        parts.append(f'<text x="{x_of(step):.0f}" y="{bottom + 20}" text-anchor="middle">{step}</text>')
    ordered = sorted(means.items(), key=lambda item: item[1][-1][1], reverse=True)
    for i, (form, curve) in enumerate(ordered):
        colour = colours[i % len(colours)]
        points = " ".join(f"{x_of(step):.1f},{y_of(loss):.1f}" for step, loss in curve)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{points}"/>'
                     f'<text x="{right + 15}" y="{top + 12 + 20 * i}" fill="{colour}">{form} {curve[-1][1]:.3f}</text>')
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 420" font-family="sans-serif" font-size="13" fill="#888">\n{body}\n'
            f'<text x="{(left + right) / 2:.0f}" y="{bottom + 36}" text-anchor="middle">step; held-out loss in nats, mean over seeds</text></svg>\n')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--base", help="the form that the others are compared with (default: the first)")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--budget", type=int, default=4, help="iterations times top_k")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--eval-tokens", type=int, default=32_768)
    parser.add_argument("--threads", type=int, default=2, help="of one run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; runs on another device are kept apart by --out")
    parser.add_argument("--save-every", type=int, default=100, help="steps between states that an interrupted run goes on from; 0: none")
    parser.add_argument("--texts", type=Path, default=ROOT / "build/zoo/texts")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/chain")
    options = parser.parse_args()
    options.binary, options.texts = options.binary.resolve(), options.texts.resolve()
    forms = options.forms.split(",")
    options.base = options.base or forms[0]
    for form in forms:
        config_of(*with_sizes(form, options))
    if options.base not in forms:
        parser.error(f"--base {options.base}: not among --forms")
    if not (options.texts / "train.jsonl").exists():
        parser.error(f"{options.texts}: no texts there; make them with `make zoo` or tools/zoo/texts.py")
    options.out.mkdir(parents=True, exist_ok=True)

    def run(job):
        seed, form = job
        row = train(form, seed, options)
        print(f"{form:<26} seed {seed}: held-out loss {row['eval_loss_after']:.4f}, {seconds([row])} CPU s", flush=True)
        return row

    # A seed of every form before the next seed: a table can be had early.
    jobs = [(seed, form) for seed in range(options.seeds) for form in forms]
    rows = {form: [] for form in forms}
    with ThreadPoolExecutor(options.jobs) as pool:
        for (_, form), row in zip(jobs, pool.map(run, jobs)):
            rows[form].append(row)
    text = table(rows, options)
    (options.out / "table.md").write_text(text)
    (options.out / "curves.svg").write_text(curves(rows))
    print("\n" + text)


if __name__ == "__main__":
    main()
