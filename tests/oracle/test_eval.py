"""Multiple choice and exact match beside the same scores computed with transformers."""

import json
import random

import pytest
import torch
from smollm2 import smollm2
from tiny_models import run
from transformers import AutoModelForCausalLM, AutoTokenizer

ANIMALS = ["dog", "golden eagle", "blue whale", "ant", "house cat", "frog", "polar bear", "honey bee"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = smollm2(tmp_path_factory)
    return path, AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def evaluate(path, *options):
    tasks = json.loads(run("eval", path, *options, "--dtype", "float32", "--json").stdout)["tasks"]
    return next(iter(tasks.values()))


def test_multiple_choice_is_that_of_transformers(model, tmp_path):
    path, tokenizer, reference = model
    rng = random.Random(3)
    questions = []
    for _ in range(12):
        options = rng.sample(ANIMALS, 4)
        questions.append({"passage": rng.choice(["", "Biology, part one."]), "question": f"Which of these is largest: {', '.join(options)}?",
                          "options": [f"({letter}) {animal}" for letter, animal in zip("ABCD", options)], "label": rng.choice("ABCD")})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))

    by_sum = by_byte = 0
    for q in questions:
        prompt = (q["passage"] + "\n" if q["passage"] else "") + f"Question: {q['question']}\nAnswer:"
        sums, means = [], []
        for option in (o[4:] for o in q["options"]):
            begin, whole = len(tokenizer(prompt)["input_ids"]), torch.tensor([tokenizer(f"{prompt} {option}")["input_ids"]])
            with torch.no_grad():
                scores = torch.log_softmax(reference(whole).logits[0, begin - 1:-1], -1)
            sums.append(scores.gather(1, whole[0, begin:, None]).sum().item())
            means.append(sums[-1] / len(option))
        right = "ABCD".index(q["label"])
        by_sum += max(range(4), key=sums.__getitem__) == right
        by_byte += max(range(4), key=means.__getitem__) == right
    assert 0 < by_sum < 12  # or nothing would be told apart
    ours = evaluate(path, "--task", f"mc:{tmp_path / 'q.jsonl'}")
    assert (ours["acc"], ours["acc_norm"], ours["questions"]) == (by_sum / 12, by_byte / 12, 12)
    assert ours["stderr"] == pytest.approx((by_sum / 12 * (1 - by_sum / 12) / 11) ** 0.5)


def test_exact_match_is_that_of_greedy_transformers(model, tmp_path):
    path, tokenizer, reference = model
    pairs = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Spain", "Barcelona"), ("Egypt", "Cairo"), ("Peru", "Arequipa")]
    questions = [{"prompt": f"The capital of Germany is Berlin\nThe capital of Portugal is Lisbon\nThe capital of {country} is", "completion": f" {city}"} for country, city in pairs]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    right = 0
    for q in questions:
        ids = tokenizer(q["prompt"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = reference.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1]:]
        right += tokenizer.decode(out, skip_special_tokens=True).split("\n")[0].strip() == q["completion"].strip()
    assert 0 < right < len(pairs)
    ours = evaluate(path, "--task", f"gen:{tmp_path / 'q.jsonl'}", "-n", 12, "--parallel", 4)
    assert (ours["exact_match"], ours["questions"]) == (right / len(pairs), len(pairs))
    assert evaluate(path, "--task", f"gen:{tmp_path / 'q.jsonl'}", "-n", 12, "--limit", 2)["questions"] == 2


def test_mistakes_in_tasks_are_told_before_the_model_is_loaded(model, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "q", "options": ["a"], "label": "A"}\n')
    for task, code, words in [("gem:x.jsonl", 2, 'did you mean "gen"'), ("mc", 2, "expected KIND:FILE"), (f"mc:{tmp_path / 'q.jsonl'}", 3, "q.jsonl:1: no list of 2 to 26 options"),
                              ("mc:absent.jsonl", 3, "absent.jsonl")]:
        result = run("eval", model[0], "--task", task, check=False)
        assert (result.returncode, words in result.stderr) == (code, True), result.stderr
