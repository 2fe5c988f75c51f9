"""Kills a writing command with SIGKILL at random moments and checks what it leaves: OUT is absent or whole, the staged
directory does not look like a model, and --resume gives the bytes of an uninterrupted run.

The command is `--writer` PROGRAM MODEL OUT SHARD_SIZE (tests/crash/copy_model.cpp), or `--relayout` MIXWRIGHT for the verb."""

import argparse
import hashlib
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make_model(directory, num_tensors=24, tensor_bytes=1 << 20):
    """A checkpoint of a few MB whose shards are worth several system calls each."""
    directory.mkdir()
    rng = random.Random(0)
    header, data, offset = {}, [], 0
    for i in range(num_tensors):
        size = tensor_bytes if i % 3 else 64
        header[f"model.layers.{i:02}.weight"] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        data.append(rng.randbytes(size))
        offset += size
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
    (directory / "config.json").write_text('{"model_type": "llama"}')


def contents(directory):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(directory.iterdir())}


def run_to_end(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command} failed: {done.stderr}")


def run_killed(command, delay):
    """Whether the kill came before the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(delay)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True


def check(out, whole):
    """What a kill may leave."""
    partial = Path(f"{out}.partial")
    if out.exists() and contents(out) != whole:
        sys.exit(f"{out} is there but not whole: {sorted(contents(out))}")
    if (partial / "config.json").exists() and contents(partial) != whole:
        sys.exit(f"{partial} looks like a model but is not whole: {sorted(contents(partial))}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--writer")
    parser.add_argument("--relayout")
    parser.add_argument("--model", help="the model to write (default: a small one made here)")
    parser.add_argument("--scratch", help="folder for the outputs (a real disk has other timing than memory)")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)

    with tempfile.TemporaryDirectory(prefix="mixwright-crash-", dir=options.scratch) as scratch:
        scratch = Path(scratch)
        model = Path(options.model) if options.model else scratch / "model"
        if not options.model:
            make_model(model)
        out = scratch / "out"

        def command(target):
            if options.writer:
                return [options.writer, str(model), str(target), "3MB"]
            return [options.relayout, "relayout", str(model), str(target), "--layout", "fused", "--out-shard-size", "100KB"]

        start = time.monotonic()
        run_to_end(command(scratch / "whole"))
        duration = time.monotonic() - start
        whole = contents(scratch / "whole")

        killed = resumed = 0
        while killed < options.kills:
            # Runs of kill and resume until one comes to its end.
            for attempt in range(6):
                # Going on, and now and then starting again over what is left.
                if not run_killed(command(out) + ["--resume"] * (attempt > 0 and rng.random() < 0.8), rng.uniform(0, duration * 1.1)):
                    break
                killed += 1
                check(out, whole)
                if out.exists():
                    break
            if not out.exists():
                resumed += 1
                run_to_end(command(out) + ["--resume"])
            if contents(out) != whole:
                sys.exit("the resumed output differs from the uninterrupted one")
            shutil.rmtree(out)
            # A kill between the last rename and the journal's removal leaves the journal: the next run clears it.
        print(f"{killed} kills, {resumed} resumed to the end, 0 damaged outputs (a whole run takes {duration * 1000:.0f} ms)")


if __name__ == "__main__":
    main()
