"""Our trainer against transformers with torch.optim.AdamW: the same losses from the same data, and what happens when it is cut short."""

import json
import math
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import BINARY, run, save_variant
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)

LENGTH, BATCH, STEPS = 24, 4, 30
RECIPE = dict(seq_len=LENGTH, batch_size=BATCH, steps=STEPS, lr=3e-3, min_lr=3e-4, warmup=5, schedule="cosine", betas=[0.9, 0.95],
              weight_decay=0.1, clip=0.5, dtype="float32", shuffle=False)


def add_tokenizer(directory):
    """Bytes as tokens, and the end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={**{c: i + 3 for i, c in enumerate(alphabet)}, "</s>": 2}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}))
    return tokenizer


@pytest.fixture
def setup(tmp_path):
    """A function that makes model, data and recipe; it returns the recipe's path and the token stream."""

    def make(variant="llama-tied", text=None, **changes):
        save_variant(variant, tmp_path / "model")
        tokenizer = add_tokenizer(tmp_path / "model")
        text = text or " ".join(f"{i} times {i % 7} makes {i * (i % 7)};" for i in range(400))
        (tmp_path / "data.txt").write_text(text)
        recipe = tmp_path / "recipe.yml"
        recipe.write_text(json.dumps({"model": "model", "data": "data.txt", **RECIPE, **changes}))
        return recipe, tokenizer.encode(text).ids + [2]

    return make


def train(recipe, out, *options):
    result = json.loads(run("train", recipe, out, "--json", "--threads", 1, *options).stdout)
    lines = [json.loads(line) for line in (out / "train_metrics.jsonl").read_text().splitlines()]
    return result, [line["loss"] for line in lines if "loss" in line]


def batches(stream):
    rows = [stream[i:i + LENGTH + 1] for i in range(0, len(stream) - LENGTH, LENGTH)]
    for step in range(STEPS):
        yield torch.tensor([rows[(step * BATCH + b) % len(rows)] for b in range(BATCH)])


def learning_rate(step):
    if step < 5:
        return 3e-3 * (step + 1) / 5
    return 3e-4 + (3e-3 - 3e-4) * 0.5 * (1 + math.cos(math.pi * (step - 5) / (STEPS - 5)))


def reference_losses(model, parameters, stream):
    parameters = list(parameters)
    optimizer = torch.optim.AdamW([dict(params=[p for p in parameters if p.dim() > 1], weight_decay=0.1),
                                   dict(params=[p for p in parameters if p.dim() == 1], weight_decay=0)], betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step, rows in enumerate(batches(stream)):
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
        losses.append(loss.item())
    return losses


def chosen(model, trainable):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable == "all" or ".mlp." in name)
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("variant, trainable", [("llama-tied", "all"), ("qwen3", "all"), ("llama", "mlp"), ("qwen2", "all")])
def test_losses_equal_transformers(variant, trainable, setup, tmp_path):
    recipe, stream = setup(variant, trainable=trainable)
    result, losses = train(recipe, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    expected = reference_losses(model, chosen(model, trainable), stream)
    assert expected[-1] < 0.7 * expected[0], "the reference must learn something"
    assert losses == pytest.approx(expected, rel=1e-3)
    assert result["steps"] == STEPS and result["last_loss"] == losses[-1]

    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = next(batches(stream))
    with torch.no_grad():
        assert (ours(ids).logits - model(ids).logits).abs().max() < 0.02


def test_micro_batches_add_up_to_one_batch(setup, tmp_path):
    recipe, _ = setup()
    _, whole = train(recipe, tmp_path / "whole")
    recipe, _ = setup(batch_size=1, grad_accumulation=BATCH)
    _, pieces = train(recipe, tmp_path / "pieces")
    assert pieces == pytest.approx(whole, rel=1e-4)


class WithLora(torch.nn.Module):
    def __init__(self, linear, a, b, scale):
        super().__init__()
        self.linear, self.a, self.b, self.scale = linear, torch.nn.Parameter(a), torch.nn.Parameter(b), scale

    def forward(self, x):
        return self.linear(x) + (x @ self.a.T @ self.b.T) * self.scale


def test_lora_losses_equal_and_adapter_equals_merged(setup, tmp_path):
    lora = dict(trainable="lora", lora=dict(rank=4, alpha=12, targets=["q_proj", "v_proj", "down_proj"]))
    recipe, _ = setup("llama", adapter=True, **{**lora, "lr": 0, "min_lr": 0})
    train(recipe, tmp_path / "start")
    start = load_file(tmp_path / "start/adapter_model.safetensors")

    recipe, stream = setup("llama", adapter=True, **lora)
    _, losses = train(recipe, tmp_path / "adapter")
    recipe, stream = setup("llama", **lora)
    _, merged_losses = train(recipe, tmp_path / "merged")
    assert losses == merged_losses

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    factors = []
    for name in sorted({key.removeprefix("base_model.model.").split(".lora_")[0] for key in start}):
        parent, leaf = name.rsplit(".", 1)
        prefix = f"base_model.model.{name}.lora_"
        module = WithLora(model.get_submodule(name), start[prefix + "A.weight"], start[prefix + "B.weight"], 12 / 4)
        assert module.b.abs().max() == 0 and module.a.abs().max() > 0
        setattr(model.get_submodule(parent), leaf, module)
        factors += [module.a, module.b]
    assert losses == pytest.approx(reference_losses(model, factors, stream), rel=1e-3)

    adapter, base = load_file(tmp_path / "adapter/adapter_model.safetensors"), load_file(tmp_path / "model/model.safetensors")
    merged = load_file(tmp_path / "merged/model.safetensors")
    for name, weight in base.items():
        prefix = "base_model.model." + name.removesuffix("weight") + "lora_"
        delta = 3 * adapter[prefix + "B.weight"] @ adapter[prefix + "A.weight"] if prefix + "A.weight" in adapter else 0
        assert (merged[name] - weight - delta).abs().max() < 1e-6, name


def test_frozen_weights_stay_bit_identical(setup, tmp_path):
    recipe, _ = setup("llama", trainable="mlp", layers="1-")
    train(recipe, tmp_path / "out")
    before, after = load_file(tmp_path / "model/model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.mlp.{p}_proj.weight" for layer in (1, 2) for p in ("gate", "up", "down")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resuming_gives_the_same_bytes(dtype, setup, tmp_path):
    recipe, _ = setup(steps=150, save_every=0, dtype=dtype, shuffle=True)
    train(recipe, tmp_path / "whole")
    process = subprocess.Popen([BINARY, "train", recipe, tmp_path / "out", "--threads", "1"], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "out.training/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 20) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not (tmp_path / "out").exists()
    refused = run("train", recipe, tmp_path / "out", check=False)
    assert refused.returncode == 2 and "an interrupted run is kept there" in refused.stderr

    train(recipe, tmp_path / "out", "--resume")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert not (tmp_path / "out.training").exists()
    steps = [json.loads(line)["step"] for line in (tmp_path / "out/train_metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 151))


def test_another_recipe_cannot_resume(setup, tmp_path):
    recipe, _ = setup(steps=2000, save_every=2)
    process = subprocess.Popen([BINARY, "train", recipe, tmp_path / "out", "--threads", "1"], stderr=subprocess.DEVNULL)
    while not (tmp_path / "out.training/state.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    recipe, _ = setup(steps=2000, save_every=2, lr=1e-3)
    refused = run("train", recipe, tmp_path / "out", "--resume", check=False)
    assert refused.returncode != 0 and "had another recipe, model or data" in refused.stderr


def test_loss_that_is_no_number_stops_naming_the_step(setup, tmp_path):
    recipe, _ = setup()
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    result = run("train", recipe, tmp_path / "out", check=False)
    assert result.returncode == 1 and "step 1: the loss is nan" in result.stderr
    assert not (tmp_path / "out").exists()


def test_only_completions_are_learnt(setup, tmp_path):
    recipe, _ = setup(data="pairs.jsonl", steps=1)
    pairs = [("What is it? " * 3, f"It is {i}.") for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(dict(prompt=p, completion=c)) for p, c in pairs))
    _, losses = train(recipe, tmp_path / "out")

    tokenizer = Tokenizer.from_file(str(tmp_path / "model/tokenizer.json"))
    stream, learn = [], []
    for prompt, completion in pairs:
        p, c = tokenizer.encode(prompt).ids, tokenizer.encode(completion).ids + [2]
        stream, learn = stream + p + c, learn + [0] * len(p) + [1] * len(c)
    rows = torch.tensor([stream[b * LENGTH:b * LENGTH + LENGTH + 1] for b in range(BATCH)])
    counts = torch.tensor([learn[b * LENGTH + 1:b * LENGTH + LENGTH + 1] for b in range(BATCH)]).flatten()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    with torch.no_grad():
        each = torch.nn.functional.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    assert losses[0] == pytest.approx(((each * counts).sum() / counts.sum()).item(), rel=1e-5)


@pytest.mark.parametrize("changes, message", [
    (dict(leraning_rate=1), "leraning_rate"),
    (dict(trainable="mpl"), 'did you mean "mlp"?'),
    (dict(trainable="experts"), "a dense model has no experts and no router"),
    (dict(data="nowhere.txt"), '"nowhere.txt" is not there'),
    (dict(seq_len=100_000), "not one sequence of `seq_len`"),
    (dict(epochs=1), "`epochs` beside `steps`"),
    (dict(adapter=True), "`adapter` without `trainable: lora`"),
    (dict(min_lr=1), "min_lr 1 is above lr"),
    (dict(dtype="int8"), 'got dtype "int8"'),
])
def test_bad_recipes_are_refused_before_anything_runs(changes, message, setup, tmp_path):
    recipe, _ = setup(**changes)
    result = run("train", recipe, tmp_path / "out", check=False)
    assert result.returncode in (2, 3) or "seq_len" in message, result.stderr
    assert result.returncode != 0 and message in result.stderr
    assert not (tmp_path / "out").exists()
