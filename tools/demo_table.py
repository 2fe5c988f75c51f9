"""Prints the perplexities that demo.sh measured: demo_table.py DIR DOMAIN..."""

import json
import sys
from pathlib import Path

folder, domains = Path(sys.argv[1]), sys.argv[2:]


def perplexity(model, domain):
    file = folder / f"eval-{model}.json"
    tasks = json.loads(file.read_text())["tasks"] if file.exists() else {}
    return tasks.get(f"ppl:{folder}/texts/{domain}.test.txt", {}).get("ppl")


def cell(value):
    return f"{value:>12.2f}" if value is not None else f"{'-':>12}"


columns = ["base", "specialist", "moe-hidden", "moe-ridge"]
print(f"{'domain':<8}" + "".join(f"{column:>12}" for column in columns) + f"{'ridge / specialist':>21}")
for domain in domains:
    # The base itself is the expert of a domain nobody was trained for.
    specialist = perplexity(domain, domain) or perplexity("base", domain)
    values = [perplexity("base", domain), specialist, perplexity("moe-hidden", domain), perplexity("moe-ridge", domain)]
    print(f"{domain:<8}" + "".join(map(cell, values)) + f"{values[3] / specialist:>20.3f}x")
