"""Every method of `zip` on trained mixtures of experts at equal expert bytes: the rise of the test loss.

    python bench/zip/run.py BINARY --model NAME=DIR ... --calibration train.jsonl --test test.jsonl [--draws 3] [--keep 0.75 0.5]

Draws are different parts of the calibration text; the test text is never calibrated on. Writes a Markdown table, and with
--json FILE every single figure."""

import argparse
import json
import random
import statistics
import subprocess
import tempfile
from pathlib import Path

METHODS = [("neuron", "ls"), ("neuron", "none"), ("reap", "none"), ("reap", "ls"), ("ream", "none"), ("frequency", "none"), ("random", "none"),
           ("hc-smoe", "none"), ("mergemoe", "none"), ("average", "none"), ("zipit", "none"), ("zipit", "ls")]


def run(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments), "--json", "--progress", "none"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))}\n{done.stderr}")
    return json.loads(done.stdout)


def loss(binary, model, test, options):
    (result,) = run(binary, "eval", model, "--task", f"ppl:{test}", "--ctx", options.ctx, "--limit", options.test_tokens, "--threads", options.threads)["tasks"].values()
    return result["nll"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--methods", nargs="+", default=[f"{m}:{r}" for m, r in METHODS], metavar="METHOD:REFIT")
    parser.add_argument("--tokens", type=int, default=16000)
    parser.add_argument("--test-tokens", type=int, default=30000)
    parser.add_argument("--ctx", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    lines = options.calibration.read_text().splitlines(keepends=True)
    figures = []
    with tempfile.TemporaryDirectory() as place:
        draws = []
        for draw in range(options.draws):
            file = Path(place) / f"draw-{draw}.jsonl"
            file.write_text("".join(random.Random(draw).sample(lines, len(lines))[: max(200, options.tokens // 20)]))
            draws.append(file)
        for name, model in (entry.split("=", 1) for entry in options.model):
            base = loss(options.binary, model, options.test, options)
            print(f"\n**{name}**: test loss {base:.4f} nats\n", flush=True)
            print("| method | refit | " + " | ".join(f"keep {keep:g}" for keep in options.keep) + " |\n|---|---|" + "---|" * len(options.keep), flush=True)
            for method, refit in (entry.split(":") for entry in options.methods):
                cells = []
                for keep in options.keep:
                    rises = []
                    for draw in draws:
                        out = Path(place) / "out"
                        result = run(options.binary, "zip", model, out, "--force", "--data", draw, "--tokens", options.tokens, "--ctx", options.ctx, "--method", method,
                                     "--refit", refit, "--keep", keep, "--threads", options.threads)
                        rises.append(loss(options.binary, out, options.test, options) - base)
                        figures.append({"model": name, "method": method, "refit": refit, "keep": keep, "kept": result["kept_expert_bytes"], "rise": rises[-1],
                                        "seconds": result["seconds"], "peak_rss_bytes": result["peak_rss_bytes"], "base": base})
                    spread = statistics.stdev(rises) if len(rises) > 1 else 0
                    cells.append(f"{statistics.mean(rises):+.4f}" + (f" ± {spread:.4f}" if len(rises) > 1 else ""))
                print(f"| {method} | {refit} | " + " | ".join(cells) + " |", flush=True)
                if options.json:
                    options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
