"""Speed of `mixwright tokenize` beside Hugging Face tokenizers, one thread each, a line at a time.

    python bench/tokenizer/run.py BINARY TOKENIZER.json [MEGABYTES]

Text: the sources and documentation of Python's standard library. Ours counts from the start of the process to its end, less
the time of a run on an empty file (loading); it writes the ids as JSON, theirs stay in memory."""

import json
import os
import pydoc_data.topics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer  # noqa: E402


def standard_library(limit):
    size, parts = 0, []
    for text in [*pydoc_data.topics.topics.values(), *(f.read_text(errors="ignore") for f in sorted(Path(os.__file__).parent.glob("*.py")))]:
        parts.append(text)
        size += len(text)
        if size > limit:
            break
    return "\n".join(parts).replace("\r", "")


def seconds_of_ours(binary, model, file):
    begin = time.perf_counter()
    subprocess.run([binary, "tokenize", model, "-f", file], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main():
    binary, model = sys.argv[1:3]
    text = standard_library(float(sys.argv[3] if len(sys.argv) > 3 else 6) * 1e6)
    megabytes = len(text.encode()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        file, empty = Path(folder) / "text", Path(folder) / "empty"
        file.write_text(text)
        empty.touch()
        ours = min(seconds_of_ours(binary, model, file) for _ in range(3)) - min(seconds_of_ours(binary, model, empty) for _ in range(3))
    tokenizer, lines, theirs = Tokenizer.from_file(model), text.split("\n"), []
    for _ in range(3):
        begin = time.perf_counter()
        for line in lines:
            tokenizer.encode(line)
        theirs.append(time.perf_counter() - begin)
    print(json.dumps({"megabytes": round(megabytes, 2), "mixwright_mb_per_second": round(megabytes / ours, 1),
                      "tokenizers_mb_per_second": round(megabytes / min(theirs), 1), "ratio": round(min(theirs) / ours, 2)}))


if __name__ == "__main__":
    main()
