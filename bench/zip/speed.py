"""How much faster zipped models read and write, beside the original and the bound, in one run:

    python bench/zip/speed.py BINARY MOE... --data TEXT [--data TEXT] [--rounds 3] [--threads 1]

Every model is measured in every round, one after another; medians are shown. `bound`: what a token could gain at best if time were the
bytes of weights it reads."""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from measure import run

FORMS = {"neuron, keep 0.75": ["--method", "neuron", "--keep", 0.75], "neuron, keep 0.5": ["--method", "neuron", "--keep", 0.5],
         "typed, zipped, keep 0.75": ["--method", "typed", "--format", "zipped", "--keep", 0.75],
         "typed, zipped, keep 0.5": ["--method", "typed", "--format", "zipped", "--keep", 0.5]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("moes", nargs="+", type=Path)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--tokens", type=int, default=16000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data = [part for text in arguments.data for part in ("--data", text)]
    for moe in arguments.moes:
        with tempfile.TemporaryDirectory() as folder:
            models, bounds = {"original": moe}, {"original": (1, 1)}
            for i, (name, options) in enumerate(FORMS.items()):
                models[name] = Path(folder) / str(i)
                made = run(arguments.binary, "zip", moe, models[name], *data, "--tokens", arguments.tokens, "--ctx", 256, *options)
                bounds[name] = made["speed_bound"], made["speed_bound"] / made["speed_bound_apart"]
            speeds = {name: [] for name in models}
            for _ in range(arguments.rounds):
                for name, path in models.items():
                    speeds[name].append(run(arguments.binary, "bench", path, "-p", 512, "-n", 128, "-b", 8, "--threads", arguments.threads))
            median = {name: [statistics.median(one[f"{what}_tokens_per_second"] for one in runs) for what in ("prefill", "decode")] for name, runs in speeds.items()}
            print(f"\n{moe.name}\n\n| | prefill, tokens/s | ratio | decode, tokens/s | ratio | bound | of it by sharing |\n|---|--:|--:|--:|--:|--:|--:|")
            for name, (prefill, decode) in median.items():
                print(f"| {name} | {prefill:.0f} | {prefill / median['original'][0]:.2f} | {decode:.0f} | {decode / median['original'][1]:.2f} | {bounds[name][0]:.2f} | {bounds[name][1]:.3f} |")


if __name__ == "__main__":
    main()
