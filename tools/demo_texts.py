"""Texts of four domains from what every machine has, cut into training and held-out parts for the demo:

    code   Python's standard library, without its comments and docstrings
    law    licences: Debian's collection, and those that came with the installed packages
    sums   word problems made here
    docs   the Python language reference that `pydoc` prints, without its grammar and examples

    Prose in the code and code in the prose are left out: their tokens belong to the other domain, whatever the file.
    demo_texts.py OUT writes OUT/<domain>.train.txt and OUT/<domain>.test.txt. No file is in both parts.
"""

import ast
import random
import sys
import sysconfig
from pathlib import Path

TRAIN_BYTES, TEST_BYTES = 800_000, 48_000
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def read(path):
    try:
        return path.read_text()
    except (UnicodeDecodeError, OSError):
        return ""


def bare_code(source):
    """The source as Python prints its syntax tree, which has no comments, and without docstrings."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def code():
    return [bare_code(read(path)) for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))]


def law():
    roots = [Path("/usr/share/common-licenses"), Path(sysconfig.get_paths()["purelib"])]
    files = {path.resolve() for root in roots for pattern in ("*", "*.dist-info/**/*LICENSE*", "*.dist-info/**/*NOTICE*")
             for path in root.glob(pattern) if path.is_file() and path.suffix in ("", ".txt", ".md") and path.name[0].isupper()}
    texts = sorted({read(path) for path in files})
    return [text for text in texts if len(text) > 2000]


NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo", "Ines", "Jan", "Kira", "Leo", "Mona", "Nils", "Olga", "Paul"]
THINGS = ["apples", "books", "coins", "stamps", "pencils", "marbles", "tickets", "cookies", "shells", "cards"]


def word_problem(rng):
    name, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    a, b, c = rng.randint(2, 60), rng.randint(2, 30), rng.randint(2, 9)
    return rng.choice([
        lambda: f"Question: {name} has {a + b} {thing} and gives {b} of them to {other}. How many {thing} does {name} have left?\n"
                f"Answer: {name} starts with {a + b} {thing}. After giving away {b}, {name} has {a + b} - {b} = {a} {thing}. The answer is {a}.",
        lambda: f"Question: {name} buys {c} boxes with {b} {thing} in each box. How many {thing} is that altogether?\n"
                f"Answer: Each box holds {b} {thing}. {c} boxes hold {c} * {b} = {c * b} {thing}. The answer is {c * b}.",
        lambda: f"Question: {name} shares {b * c} {thing} equally among {c} friends. How many {thing} does each friend get?\n"
                f"Answer: There are {b * c} {thing} for {c} friends. Each friend gets {b * c} / {c} = {b} {thing}. The answer is {b}.",
        lambda: f"Question: {name} has {a} {thing}. {other} has {b} more {thing} than {name}. How many {thing} do they have together?\n"
                f"Answer: {other} has {a} + {b} = {a + b} {thing}. Together they have {a} + {a + b} = {2 * a + b} {thing}. The answer is {2 * a + b}.",
        lambda: f"Question: A ticket costs {c} dollars. {name} buys {a} tickets and pays with {a * c + b} dollars. How much change does {name} get?\n"
                f"Answer: {a} tickets cost {a} * {c} = {a * c} dollars. The change is {a * c + b} - {a * c} = {b} dollars. The answer is {b}.",
    ])()


def sums():
    rng = random.Random(7)
    return ["\n\n".join(word_problem(rng) for _ in range(60)) for _ in range(120)]


def is_prose(paragraph):
    return not paragraph.startswith("   ") or ("::=" not in paragraph and ">>>" not in paragraph and paragraph.rstrip().endswith((".", ":", ")")))


def docs():
    from pydoc_data.topics import topics

    return ["\n\n".join(filter(is_prose, topics[name].split("\n\n"))) for name in sorted(topics)]


def split(texts):
    """Whole texts into a test part, then into a training part."""
    texts = [text for text in texts if text]
    random.Random(1).shuffle(texts)
    parts = {"test": [], "train": []}
    room = {"test": TEST_BYTES, "train": TRAIN_BYTES}
    for text in texts:
        part = "test" if room["test"] > 0 else "train"
        if room[part] > 0:
            parts[part].append(text[: room[part]])
            room[part] -= len(text)
    return {part: "\n\n".join(chosen) for part, chosen in parts.items()}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for make in (code, law, sums, docs):
        for part, text in split(make()).items():
            (out / f"{make.__name__}.{part}.txt").write_text(text)
            print(f"  {make.__name__:<5} {part:<6} {len(text):>8} bytes")
