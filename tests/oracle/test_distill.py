"""`mixwright train` with a teacher: the same losses as PyTorch, teachers of other architectures, what is refused, what resumes."""

import json
import re

import pytest
import torch
from ranks import finish, start_ranks
from test_train import add_tokenizer, chosen, cut_after_first_save, losses_of, optimise, setup, train  # noqa: F401
from tiny_models import run, save_variant
from torch.nn.functional import cross_entropy, log_softmax
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)


@pytest.fixture
def lesson(setup, tmp_path):  # noqa: F811
    """A function that makes a student, its teacher, data and recipe."""

    def make(student, taught_by, **changes):
        save_variant(taught_by, tmp_path / "teacher", seed=5)
        add_tokenizer(tmp_path / "teacher")
        return setup(student, **{"teacher": "teacher", **changes})

    return make


def with_streams(model, ids):
    """Logits, and the stream behind every layer."""
    streams, hooks = [], []
    for layer in model.model.layers:
        hooks.append(layer.register_forward_hook(lambda _, __, output: streams.append(output[0] if isinstance(output, tuple) else output)))
    logits = model(ids).logits
    for hook in hooks:
        hook.remove()
    return logits, streams


def distillation(student, teacher, logits=1.0, temperature=1.0, hidden=0.0, ce=0.0):
    def losses_of_rows(rows):
        ours, our_streams = with_streams(student, rows[:, :-1])
        with torch.no_grad():
            theirs, their_streams = with_streams(teacher, rows[:, :-1])
        p, q = log_softmax(theirs / temperature, -1), log_softmax(ours / temperature, -1)
        loss = logits * temperature**2 * (p.exp() * (p - q)).sum(-1).mean()
        if hidden:
            loss = loss + hidden * sum(((s - t).square().sum(-1) / t.square().sum(-1)).mean() for s, t in zip(our_streams, their_streams)) / len(our_streams)
        return loss + ce * cross_entropy(ours.flatten(0, 1), rows[:, 1:].flatten()), 0

    return losses_of_rows


@pytest.mark.parametrize("student, teacher, trainable, weights", [
    ("llama-tied", "qwen3_moe", "all", dict(logits=1.0)),
    ("qwen3", "qwen3_moe", "mlp", dict(logits=1.0, temperature=2.0, hidden=0.5, ce=0.3)),
    ("mixtral", "llama", "experts", dict(logits=0.0, hidden=1.0)),
    ("qwen2_moe-norm", "granite", "router", dict(logits=0.7, ce=0.2)),
])
def test_losses_equal_pytorch(student, teacher, trainable, weights, lesson, tmp_path):
    recipe, stream = lesson(student, teacher, trainable=trainable, distill=weights)
    result, losses = train(recipe, tmp_path / "out")
    ours, theirs = (AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32) for name in ("model", "teacher"))
    expected = optimise(chosen(ours, trainable), stream, distillation(ours, theirs.eval(), **weights))
    assert expected[-1] < 0.97 * expected[0], "the reference must learn something"
    assert losses == pytest.approx(expected, rel=1e-3)
    if weights.get("hidden"):
        lines = [json.loads(line) for line in (tmp_path / "out/train_metrics.jsonl").read_text().splitlines()]
        assert all(0 < line["stream_loss"] <= line["loss"] * (1 + 1e-6) for line in lines)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(lesson, tmp_path):
    recipe, _ = lesson("qwen3_moe", "qwen3_moe", steps=1, distill=dict(logits=1, hidden=1))
    save_variant("qwen3_moe", tmp_path / "teacher")
    _, losses = train(recipe, tmp_path / "out")
    assert abs(losses[0]) < 1e-5


@pytest.mark.parametrize("changes", [dict(trainable="lora", lora=dict(rank=4)), dict(batch_size=1, grad_accumulation=4), dict(checkpointing=True), dict(dtype="bfloat16"),
                                     dict(distill=dict(hidden=0.1, dtype="bfloat16"))])
def test_other_forms_of_training_learn_from_a_teacher(changes, lesson, tmp_path):
    recipe, _ = lesson("qwen3", "qwen3_moe", distill=dict(hidden=0.1))
    _, plain = train(recipe, tmp_path / "plain")
    recipe, _ = lesson("qwen3", "qwen3_moe", **{"distill": dict(hidden=0.1), **changes})
    _, losses = train(recipe, tmp_path / "out")
    assert losses[0] == pytest.approx(plain[0], rel=0.05) and losses[-1] < losses[0]
    if not {"trainable", "dtype", "distill"} & changes.keys():
        assert losses == pytest.approx(plain, rel=1e-4)


def test_ranks_learn_as_one_and_resuming_gives_the_same_bytes(lesson, tmp_path):
    recipe, _ = lesson("llama", "qwen3_moe", steps=60, save_every=20, distill=dict(hidden=0.1), shuffle=True)
    train(recipe, tmp_path / "alone")
    cut_after_first_save(recipe, tmp_path / "out")
    train(recipe, tmp_path / "out", "--resume")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "alone/model.safetensors").read_bytes()
    finish(start_ranks(2, "train", recipe, tmp_path / "together"))
    assert losses_of(tmp_path / "together") == pytest.approx(losses_of(tmp_path / "alone"), rel=1e-4)


def test_another_teacher_cannot_resume(lesson, tmp_path):
    recipe, _ = lesson("llama", "qwen3", steps=2000, save_every=2)
    cut_after_first_save(recipe, tmp_path / "out")
    save_variant("qwen3", tmp_path / "teacher", seed=6)
    refused = run("train", recipe, tmp_path / "out", "--resume", check=False)
    assert refused.returncode != 0 and "had another recipe, model or data" in refused.stderr


@pytest.mark.parametrize("changes, message", [
    (dict(distill=dict(logits=0)), "nothing is learnt from the teacher"),
    (dict(distill=dict(temprature=2)), 'unknown key "temprature"'),
    (dict(teacher=None, distill=dict(logits=1)), "`distill` without `teacher`"),
    (dict(teacher="deep", distill=dict(hidden=1)), "5 layers of width 64 cannot be matched with 3"),
    (dict(teacher="spoken"), "of 259 tokens differ"),
    (dict(teacher="wide"), "its vocabulary has 400 tokens, the student's 320"),
    (dict(teacher="nowhere"), "nowhere"),
])
def test_teachers_that_cannot_teach_are_refused(changes, message, lesson, tmp_path):
    recipe, _ = lesson("llama", "qwen3", **changes)
    name = changes.get("teacher")
    if name not in (None, "nowhere"):
        save_variant("smollm3" if name == "deep" else "llama", tmp_path / name, seed=1)
        add_tokenizer(tmp_path / name)
    if name == "spoken":
        file = tmp_path / "spoken/tokenizer.json"
        vocabulary = json.loads(file.read_text())
        tokens = vocabulary["model"]["vocab"]
        tokens["A"], tokens["B"] = tokens["B"], tokens["A"]
        file.write_text(json.dumps(vocabulary))
    if name == "wide":
        from tiny_models import make_model
        make_model("llama", dict(vocab_size=400)).save_pretrained(tmp_path / "wide")
    result = run("train", recipe, tmp_path / "out", check=False)
    assert result.returncode != 0 and re.search(re.escape(message).replace("unknown\\ key\\ ", ".*"), result.stderr), result.stderr
    assert not (tmp_path / "out").exists()
