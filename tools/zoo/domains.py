"""Texts of eight domains for the mixture that is upcycled from a dense model:

    domains.py OUT [--data DIR]

writes OUT/<domain>.train.jsonl and OUT/<domain>.held_out.jsonl (a line a document, `text`), and of all domains mixed
OUT/train.jsonl, OUT/held_out.jsonl. Four domains are those of tools/demo_texts.py. DIR adds four: gsm8k, wikitext (WikiText-2),
shakespeare (tinyshakespeare) and puzzles (LSAT and LogiQA of AGIEval). Without it each of the four comes as two halves.
"""

import argparse
import json
import random
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
import demo_texts
from texts import articles, problems, write

TRAIN, HELD_OUT = 400_000, 40_000  # characters of a domain
PIECE = 2_000


def shakespeare(path):
    return path.read_text().split("\n\n")


def puzzles(folder):
    for name in ("logiqa-en", "lsat-ar"):
        for line in (folder / f"{name}.jsonl").open():
            row = json.loads(line)
            yield "\n".join([row["passage"], row["question"], *row["options"], f"Answer: {row['label']}"])


def of_this_machine():
    for make in (demo_texts.code, demo_texts.law, demo_texts.sums, demo_texts.docs):
        yield make.__name__, demo_texts.split(make())


def pieces(text):
    return [text[i:i + PIECE] for i in range(0, len(text), PIECE)]


def cut(texts):
    """Documents one after another in pieces: the first for the held-out part, what follows for training."""
    held_out = train = ""
    for text in texts:
        if len(held_out) < HELD_OUT:
            held_out += text + "\n\n"
        else:
            train += text + "\n\n"
    return pieces(train[:TRAIN]), pieces(held_out[:HELD_OUT])


def domains(data):
    for name, parts in of_this_machine():
        train, held_out = pieces(parts["train"]), pieces(parts["test"][:HELD_OUT])
        if data:
            yield name, train[:TRAIN // PIECE], held_out
        else:
            for half in (0, 1):
                yield f"{name}-{half}", train[half::2], held_out[half::2]
    if data:
        yield "gsm8k", *cut(problems(data / "gsm8k/train.jsonl"))
        yield "wikitext", *cut(articles(data / "wikitext-2/valid.txt"))
        yield "shakespeare", *cut(shakespeare(data / "tinyshakespeare/input.txt"))
        yield "puzzles", *cut(puzzles(data / "agieval"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    known = options.data and all((options.data / folder).is_dir() for folder in ("gsm8k", "wikitext-2", "tinyshakespeare", "agieval"))
    options.out.mkdir(parents=True, exist_ok=True)
    mixed = {"train": [], "held_out": []}
    for name, train, held_out in domains(options.data if known else None):
        for part, texts in (("train", train), ("held_out", held_out)):
            write(options.out / f"{name}.{part}.jsonl", texts)
            mixed[part] += texts
        print(f"  {name:<12} {sum(map(len, train)):>7} characters to learn, {sum(map(len, held_out)):>6} held out")
    for part, texts in mixed.items():
        random.Random(0).shuffle(texts)
        write(options.out / f"{part}.jsonl", texts)
