"""Every way of `mixwright split` on trained MoEs: perplexity of the dense models beside the mixture's, on text kept apart.

    python bench/split/run.py BINARY MOE... --data TEXT [--data TEXT] [--tokens N]

One table a MoE. `nats` is the rise of the loss over the mixture's, mean over the texts; `x slice` how many times smaller it is
than that of one expert of every layer. Of several students each is measured on its own text."""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from measure import run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("moes", nargs="+", type=Path)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--heal", default="200", help="steps of distillation of the last line, or its recipe; 0: none")
    parser.add_argument("--methods", nargs="+", help="these lines of the table only (slice comes first always)")
    arguments = parser.parse_args()
    texts = [part for text in arguments.data for part in ("--data", text)]
    for moe in arguments.moes:
        config = json.loads((moe / "config.json").read_text())
        active = config["num_experts_per_tok"] * (config.get("moe_intermediate_size") or config["intermediate_size"]) + (config.get("shared_expert_intermediate_size") or 0)
        methods = [("slice", ["--expert", 0]), ("mean", ["--method", "mean"]), ("aligned mean", ["--method", "mean", "--align"]), ("slerp chain", ["--method", "slerp"]),
                   ("routed", ["--method", "routed"]), ("concat", ["--method", "concat"]), ("fit", ["--method", "fit"]),
                   ("fit, twice as wide", ["--method", "fit", "--width", 2 * active])]
        if len(arguments.data) > 1:
            methods.append(("fit, a student for each text", ["--method", "fit", "--students", len(arguments.data)]))
        if arguments.heal != "0":
            steps = arguments.heal if arguments.heal.isdigit() else Path(arguments.heal).stem
            methods.append((f"fit, {steps} steps of healing", ["--method", "fit", "--heal", arguments.heal]))
        if arguments.methods:
            methods = [method for method in methods if method[0] in ("slice", *arguments.methods)]
        print(f"\n{moe.name}\n\n| | parameters | {' | '.join(Path(d).name for d in arguments.data)} | ratio | nats | x slice | seconds |\n|---|--:|{'--:|' * (len(arguments.data) + 4)}")
        slice_rise = None
        with tempfile.TemporaryDirectory() as folder:
            for i, (name, options) in enumerate(methods):
                done = run(arguments.binary, "split", moe, Path(folder) / str(i), *options, *texts, "--tokens", arguments.tokens, "--ctx", 256)
                mixture, *rows = done["report"]
                students = [row for row in rows if row["model"].endswith("healed")] or rows  # what was healed stands there before and after
                dense = students[0] if len(students) == 1 else students[0] | {"ppl": {d: row["ppl"][d] for d, row in zip(mixture["ppl"], students)}}
                if i == 0:
                    print(f"| mixture | {mixture['parameters'] / 1e6:.1f} M, {mixture['active_parameters'] / 1e6:.1f} M active | "
                          + " | ".join(f"{p:.2f}" for p in mixture["ppl"].values()) + " | | | | |")
                rise = sum(math.log(dense["ppl"][d] / p) for d, p in mixture["ppl"].items()) / len(mixture["ppl"])
                slice_rise = slice_rise or rise
                print(f"| {name} | {dense['parameters'] / 1e6:.1f} M | " + " | ".join(f"{p:.2f}" for p in dense["ppl"].values())
                      + f" | {math.exp(rise):.3f} | {rise:.4f} | {slice_rise / rise:.1f} | {done['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
