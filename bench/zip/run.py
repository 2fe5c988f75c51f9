"""Every method of `zip` on trained mixtures of experts at equal expert bytes: the rise of the test loss, and what a generative task keeps.

    python bench/zip/run.py BINARY --model NAME=DIR ... --calibration train.jsonl --test test.jsonl [--draws 3] [--keep 0.75 0.5]

Draws are different parts of the calibration text; the test text is never calibrated on. Every method sees the same draws, so
differences between methods are paired: each is given with half the width of its 95 % confidence interval (Student's t).
The task is to repeat the result of a calculation, as in GSM8K's "<<48/2=24>>24", by greedy decoding; a model's exact match is given
as a share of the original's. Writes Markdown tables under each model's redundancy figures, and with --json FILE every single figure; runs
that stand in FILE already are not repeated, so that more draws and methods add to a table."""

import argparse
import json
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from measure import STUDENT, interval, run

METHODS = [("neuron", "ls"), ("typed", "ls"), ("neuron", "none"), ("heapr", "ls"), ("heapr", "none"), ("reap", "none"), ("reap", "ls"), ("ream", "none"), ("frequency", "none"),
           ("random", "none"), ("hc-smoe", "none"), ("mergemoe", "none"), ("average", "none"), ("zipit", "none"), ("zipit", "ls")]


def shown(values, signed=True):
    mean, half = interval(values)
    return f"{mean:+.4f}" * signed + f"{mean:.4f}" * (not signed) + ("" if math.isnan(half) else f" ± {half:.4f}")


class CopyTask:
    """Windows of test text that end with the result of a calculation, written twice: the second time it can only be copied."""

    def __init__(self, model, test, count, length=96):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        self.windows, self.answers = [], []
        for line in test.read_text().splitlines():
            text = json.loads(line).get("text", "")
            matches = list(re.finditer(r"=([\d.]+)>>(\1)(?![\d.])", text))
            if not matches or len(self.windows) >= count:
                continue
            encoding = tokenizer.encode(text, add_special_tokens=False)
            for match in matches:
                begin, end = match.span(2)
                tokens = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > begin]
                whole = encoding.offsets[tokens[0]][0] == begin and encoding.offsets[tokens[-1]][1] == end
                if whole and tokens[-1] + 1 >= length and len(self.windows) < count:
                    self.windows.append(encoding.ids[tokens[-1] + 1 - length:tokens[-1] + 1])
                    self.answers.append(len(tokens))

    def scores(self, binary, model, place, threads):
        """Share of answers whose every token greedy decoding would give, and of all next tokens of the windows."""
        from safetensors.numpy import load_file

        if not self.windows:
            return math.nan, math.nan
        (place / "ids.json").write_text(json.dumps(self.windows))
        subprocess.run([binary, "logits", model, "--ids", place / "ids.json", "-o", place / "logits.safetensors", "--threads", str(threads), "--progress", "none"],
                       check=True, capture_output=True)
        best = load_file(place / "logits.safetensors")["logits"].argmax(-1)
        exact = [list(b[len(w) - 1 - n:len(w) - 1]) == w[len(w) - n:] for b, w, n in zip(best, self.windows, self.answers)]
        right = [b[i] == w[i + 1] for b, w in zip(best, self.windows) for i in range(len(w) - 1)]
        return statistics.mean(exact), statistics.mean(map(float, right))


def loss(binary, model, test, options):
    (result,) = run(binary, "eval", model, "--task", f"ppl:{test}", "--ctx", options.ctx, "--limit", options.test_tokens, "--threads", options.threads)["tasks"].values()
    return result["nll"]


def redundancy(binary, model, text, options, place):
    figures = run(binary, "profile", model, "--data", text, "--tokens", options.tokens, "--ctx", options.ctx, "--threads", options.threads, "-o", place / "stats.safetensors")
    mean = lambda key: statistics.mean(layer[key] for layer in figures["layers"])
    return {"p_matched": figures["matched_partner_p"], "p_best": figures["best_partner_p"], "expert_share": figures["expert_share"],
            "shared_mean_energy": mean("shared_mean_energy"), "rank90_share": mean("rank90_share")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3, choices=[1, *STUDENT])
    parser.add_argument("--keep", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--methods", nargs="+", default=[f"{m}:{r}" for m, r in METHODS], metavar="METHOD:REFIT[:OPTION=VALUE...]",
                        help="with more options of zip, as neuron:ls:format=zipped:budget=loss; the first is what the others are compared with")
    parser.add_argument("--tokens", type=int, default=16000)
    parser.add_argument("--test-tokens", type=int, default=30000)
    parser.add_argument("--copies", type=int, default=150, help="examples of the generative task; 0: without it")
    parser.add_argument("--ctx", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    lines = options.calibration.read_text().splitlines(keepends=True)
    text = {"calibration": options.calibration.name, "test": options.test.name, "tokens": options.tokens, "ctx": options.ctx, "test_tokens": options.test_tokens, "copies": options.copies}
    figures = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        place, draws = Path(folder), []
        for draw in range(options.draws):
            file = place / f"draw-{draw}.jsonl"
            file.write_text("".join(random.Random(draw).sample(lines, len(lines))[: max(200, options.tokens // 20)]))
            draws.append(file)
        for name, model in (entry.split("=", 1) for entry in options.model):
            base, facts, task = loss(options.binary, model, options.test, options), redundancy(options.binary, model, draws[0], options, place), CopyTask(model, options.test, options.copies)
            exact, right = task.scores(options.binary, model, place, options.threads)
            copied = f", next token right {100 * right:.1f} %, copies exact {100 * exact:.1f} % of {len(task.windows)}" if task.windows else ""
            print(f"\n**{name}**: test loss {base:.4f} nats{copied}. "
                  f"Experts are {100 * facts['expert_share']:.0f} % of the active parameters; p of matched partners {facts['p_matched']:.2f} (best {facts['p_best']:.2f}), "
                  f"energy of their mean {100 * facts['shared_mean_energy']:.1f} %, rank90 {100 * facts['rank90_share']:.0f} %.\n", flush=True)
            columns = [f"{what}, keep {keep:g}" for keep in options.keep for what in ["rise of the loss", "more than the first"] + ["copies"] * bool(task.windows)]
            print("| method | refit | " + " | ".join(columns) + " |\n|---|---|" + "---|" * len(columns), flush=True)
            first = {}
            for method, refit, *more in (entry.split(":") for entry in options.methods):
                more_options = [word for option in more for word in ("--" + option).split("=")]
                cells = []
                for keep in options.keep:
                    rises, copies = [], []
                    for number, draw in enumerate(draws):
                        run_of = {"model": name, "method": method, "refit": refit, "options": more, "keep": keep, "draw": number, **text}
                        row = next((row for row in figures if run_of.items() <= row.items()), None)
                        if row is None:
                            out = place / "out"
                            result = run(options.binary, "zip", model, out, "--force", "--data", draw, "--tokens", options.tokens, "--ctx", options.ctx, "--method", method,
                                         "--refit", refit, "--keep", keep, "--threads", options.threads, *more_options)
                            kept, accuracy = task.scores(options.binary, out, place, options.threads)
                            row = {**run_of, "kept": result["kept_expert_bytes"], "rise": loss(options.binary, out, options.test, options) - base,
                                   "exact": kept, "accuracy": accuracy, "layers": [layer["kept"] for layer in result["layers"]], "seconds": result["seconds"],
                                   "peak_rss_bytes": result["peak_rss_bytes"], "base": base, "base_exact": exact, "base_accuracy": right, **facts}
                            figures.append(row)
                            if options.json:
                                options.json.write_text(json.dumps(figures, indent=1))
                        rises.append(row["rise"])
                        copies.append(row["exact"] / exact if exact >= 0.1 else math.nan)  # of few, a share says nothing
                    difference = [a - b for a, b in zip(rises, first.setdefault(keep, rises))]
                    cells += [shown(rises), shown(difference) if first[keep] is not rises else ""]
                    if task.windows:
                        cells.append("-" if math.isnan(copies[0]) else f"{100 * statistics.mean(copies):.0f} %")
                print(f"| {', '.join([method, *more])} | {refit} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
