"""Checks the layer picture of src/LAYERS: every include goes to the own folder or down, libtorch stays above the torch
line, no folder or file has a name that says nothing, and no file outgrows its limit."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
VAGUE = re.compile(r"^(utils?|common|misc|helpers?)$")
MAX_LINES = 600
MAX_ARCH_TABLE_LINES = 120
NOT_TABLES = {"architecture", "registry"}


def read_layers():
    rank, torch_from = {}, None
    for line in (SRC / "LAYERS").read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith("---"):
            torch_from = max(rank.values()) + 1
            continue
        level = max(rank.values(), default=-1) + 1
        rank.update((folder, level) for folder in line.split())
    return rank, torch_from


def folder_of(path):
    return path.parts[0] if len(path.parts) > 1 else "."


def check():
    rank, torch_from = read_layers()
    problems = []
    for file in sorted([*SRC.rglob("*.h"), *SRC.rglob("*.cpp")]):
        relative = file.relative_to(SRC)
        folder = folder_of(relative)
        text = file.read_text()
        if folder not in rank:
            problems.append(f"src/{relative}: folder {folder} is not in src/LAYERS")
            continue
        if any(VAGUE.match(part) for part in (*relative.parts[:-1], relative.stem)):
            problems.append(f"src/{relative}: the name says nothing; name it for what is in it")
        limit = MAX_LINES
        if folder == "arch" and file.suffix == ".cpp" and re.search(r"^const Architecture ", text, re.M):
            limit = MAX_ARCH_TABLE_LINES
        lines = text.count("\n")
        if lines > limit:
            problems.append(f"src/{relative}: {lines} lines, limit {limit}")
        if relative.as_posix() == "main.cpp":
            continue
        for number, line in enumerate(text.splitlines(), 1):
            include = re.match(r'\s*#include\s+(["<])([^">]+)[">]', line)
            if not include:
                continue
            where = f"src/{relative}:{number}"
            target = include.group(2)
            if re.match(r"(torch|ATen|c10)/", target):
                if rank[folder] < torch_from:
                    problems.append(f"{where}: includes {target} below the torch line")
            elif include.group(1) == '"':
                if not (SRC / target).exists():
                    if (file.parent / target).exists():
                        problems.append(f"{where}: write the full path from src/, not {target}")
                    continue
                other = folder_of(Path(target))
                if other != folder and rank[other] >= rank[folder]:
                    problems.append(f"{where}: {folder} may not include {other} (src/LAYERS)")
    return problems


if __name__ == "__main__":
    found = check()
    print("\n".join(found) or "layers hold")
    sys.exit(bool(found))
