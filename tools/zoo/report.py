"""Prints what a model of the zoo is like: held-out loss of each text, and how redundant its experts are.

    report.py BINARY MODEL TEXT.jsonl... [--threads N]

shared mean: energy of the mean of all experts over that of one (1/E: nothing in common); rank90: share of E directions that holds
90 % of the energy of the experts' weights; partner: probability that an expert's best partner is active when it is. Means over layers.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def figures(binary, *arguments):
    result = subprocess.run([binary, *arguments, "--json", "--progress", "none"], stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(result.returncode)  # it has said why
    return json.loads(result.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--tokens", default="16384", help="of each text")
    parser.add_argument("--threads")
    options = parser.parse_args()
    sizes = ["--ctx", "256", *(["--threads", options.threads] if options.threads else [])]
    with tempfile.TemporaryDirectory() as folder:
        profile = figures(options.binary, "profile", options.model, *(f"--data={text}" for text in options.texts), "--tokens", options.tokens, *sizes,
                          "-o", Path(folder) / "statistics.safetensors")
    tasks = [f"--task=ppl:{text}" for text in options.texts]
    losses = figures(options.binary, "eval", options.model, *tasks, "--limit", options.tokens, *sizes)
    mean = {key: statistics.mean(layer[key] for layer in profile["layers"]) for key in ("shared_mean_energy", "rank90_share")}
    print(f"{options.model.name}: shared mean {mean['shared_mean_energy']:.1%}, rank90 {mean['rank90_share']:.0%} of the experts, "
          f"partner {profile['best_partner_p']:.1%} (matched pairs {profile['matched_partner_p']:.1%})")
    for task, row in losses["tasks"].items():
        print(f"  {Path(task).name:<28} held-out loss {row['nll']:.4f} +- {row['stderr']:.4f}")
