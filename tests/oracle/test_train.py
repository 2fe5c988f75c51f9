"""Our trainer against transformers with torch.optim.AdamW: the same losses from the same data, and what happens when it is cut short."""

import json
import math
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

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
    return result, losses_of(out)


def batches(stream):
    rows = [stream[i:i + LENGTH + 1] for i in range(0, len(stream) - LENGTH, LENGTH)]
    for step in range(STEPS):
        yield torch.tensor([rows[(step * BATCH + b) % len(rows)] for b in range(BATCH)])


def learning_rate(step):
    if step < 5:
        return 3e-3 * (step + 1) / 5
    return 3e-4 + (3e-3 - 3e-4) * 0.5 * (1 + math.cos(math.pi * (step - 5) / (STEPS - 5)))


def optimise(parameters, stream, losses_of):
    """Trains `parameters` as RECIPE says; losses_of(rows) gives the loss that is reported and what is added to it."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW([dict(params=[p for p in parameters if p.dim() > 1], weight_decay=0.1),
                                   dict(params=[p for p in parameters if p.dim() == 1], weight_decay=0)], betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step, rows in enumerate(batches(stream)):
        loss, added = losses_of(rows)
        optimizer.zero_grad()
        (loss + added).backward()
        for parameter in parameters:  # an expert without tokens: stacked experts, ours and theirs, have a gradient of zero
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
        losses.append(loss.item())
    return losses


def reference_losses(model, parameters, stream, auxiliary=None):
    def losses_of(rows):
        output = model(rows[:, :-1], output_router_logits=True) if auxiliary else model(rows[:, :-1])
        loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), rows[:, 1:].flatten())
        return loss, auxiliary(output.router_logits, model.config.num_experts_per_tok) if auxiliary else 0

    return optimise(parameters, stream, losses_of)


PARTS = {"all": r".", "mlp": r"\.mlp\.", "experts": r"\.mlp\.(experts|shared_expert)\.", "router": r"\.mlp\.(gate|shared_expert_gate)\."}


def chosen(model, trainable):
    for name, parameter in model.named_parameters():
        parts = [trainable] if isinstance(trainable, str) else trainable
        parameter.requires_grad_(any(re.search(PARTS[part], name) for part in parts))
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("variant, trainable", [("llama-tied", "all"), ("qwen3", "all"), ("llama", "mlp"), ("qwen2", "all"), ("mixtral", "all"),
                                                ("qwen3_moe", "all"), ("qwen2_moe", "all"), ("qwen2_moe", "experts"), ("qwen2_moe-norm", "router"),
                                                ("granite", "all"), ("gemma2", "mlp"),
                                                ("qwen2_moe", ["experts", "router"])])
def test_losses_equal_transformers(variant, trainable, setup, tmp_path):
    recipe, stream = setup(variant, trainable=trainable)
    result, losses = train(recipe, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    expected = reference_losses(model, chosen(model, trainable), stream)
    assert expected[-1] < (0.7 if trainable != "router" else 0.99) * expected[0], "the reference must learn something"
    assert losses == pytest.approx(expected, rel=1e-3)
    assert result["steps"] == STEPS and result["last_loss"] == losses[-1]

    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = next(batches(stream))
    with torch.no_grad():
        assert (ours(ids).logits - model(ids).logits).abs().max() < 0.02


def auxiliary_loss(sequence, batch, z):
    """Balance as in DeepSeek-V2 (a sequence, a batch at a time), and the z-loss of ST-MoE, summed over layers."""

    def of_layer(logits, top_k):
        scores = logits.softmax(-1)
        hits = torch.zeros_like(scores).scatter_(1, scores.topk(top_k, -1).indices, 1.0)
        num_experts = logits.shape[-1]
        frequency = (hits * num_experts / top_k).view(BATCH, LENGTH, -1).mean(1)
        mean_score = scores.view(BATCH, LENGTH, -1).mean(1)
        return (sequence * (frequency * mean_score).sum(-1).mean() + batch * (frequency.mean(0) * mean_score.mean(0)).sum()
                + z * logits.logsumexp(-1).square().mean())

    return lambda router_logits, top_k: sum(of_layer(logits, top_k) for logits in router_logits)


@pytest.mark.parametrize("weights", [(0.05, 0, 0), (0, 0.05, 0), (0, 0, 0.02)])
def test_auxiliary_losses_equal_their_formulas(weights, setup, tmp_path):
    recipe, stream = setup("qwen2_moe", sequence_balance_loss=weights[0], balance_loss=weights[1], router_z_loss=weights[2])
    _, losses = train(recipe, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert losses == pytest.approx(reference_losses(model, model.parameters(), stream, auxiliary_loss(*weights)), rel=1e-3)
    plain, _ = setup("qwen2_moe")
    assert train(plain, tmp_path / "plain")[1] != losses


@pytest.mark.parametrize("changes", [{}, dict(trainable="experts"), dict(trainable="mlp", layers="1-")])
def test_checkpointing_changes_nothing(changes, setup, tmp_path):
    recipe, _ = setup("qwen2_moe", sequence_balance_loss=0.01, router_z_loss=0.001, **changes)
    _, kept = train(recipe, tmp_path / "kept")
    recipe, _ = setup("qwen2_moe", sequence_balance_loss=0.01, router_z_loss=0.001, checkpointing=True, **changes)
    _, computed_again = train(recipe, tmp_path / "again")
    assert computed_again == kept


@pytest.mark.parametrize("variant", ["deepseek_v3", "glm4_moe"])
def test_biases_move_against_the_load(variant, setup, tmp_path):
    rate, steps = 0.01, 5
    recipe, stream = setup(variant, balance_bias=rate, steps=steps, schedule="constant", warmup=0, lr=0, min_lr=0)
    train(recipe, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    routers = {name: module for name, module in model.named_modules() if hasattr(module, "e_score_correction_bias")}
    chosen = {}
    for name, module in model.named_modules():  # the experts are handed the choice
        if name.endswith("mlp.experts"):
            module.register_forward_pre_hook(lambda _, inputs, name=name: chosen.update({name: inputs[1]}))
    for rows, _ in zip(batches(stream), range(steps)):
        with torch.no_grad():
            model(rows[:, :-1])
            for name, router in routers.items():
                counts = chosen[name.replace(".gate", ".experts")].flatten().bincount(minlength=8).double()
                router.e_score_correction_bias += (rate * (counts.mean() - counts).sign()).float()
    start, end = load_file(tmp_path / "model/model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert routers
    for name, router in routers.items():
        bias = end[f"{name}.e_score_correction_bias"]
        assert bias.dtype == torch.float32 and (bias - router.e_score_correction_bias).abs().max() < 1e-6
        assert (bias - start[f"{name}.e_score_correction_bias"]).abs().max() > 0.9 * rate


def from_scratch(tmp_path, **changes):
    """A recipe for a new model, and the directory it takes its tokenizer from."""
    (tmp_path / "tokenizer").mkdir(exist_ok=True)
    tokenizer = add_tokenizer(tmp_path / "tokenizer")
    text = " ".join(f"{i} times {i % 7} makes {i * (i % 7)};" for i in range(400))
    (tmp_path / "data.txt").write_text(text)
    config = dict(model_type="qwen2_moe", hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                  num_experts=6, num_experts_per_tok=2, moe_intermediate_size=48, shared_expert_intermediate_size=80, max_position_embeddings=128,
                  initializer_range=0.05)
    settings = {**RECIPE, "config": config, "tokenizer": "tokenizer", "data": "data.txt", **changes}
    recipe = tmp_path / "scratch.yml"
    recipe.write_text(json.dumps(settings))
    return recipe, tokenizer.encode(text).ids + [2]


def test_a_new_model_starts_as_transformers_would_and_trains(tmp_path):
    recipe, stream = from_scratch(tmp_path, lr=0, min_lr=0, steps=1)
    train(recipe, tmp_path / "start")
    weights = load_file(tmp_path / "start/model.safetensors")
    assert weights["model.embed_tokens.weight"].shape == (259, 64), "the vocabulary is the tokenizer's"
    for name, weight in weights.items():
        if weight.dim() == 1:
            assert torch.equal(weight, torch.zeros_like(weight) if name.endswith("bias") else torch.ones_like(weight)), name
        elif weight.numel() > 1000:
            assert weight.std() == pytest.approx(0.05, rel=0.1) and abs(weight.mean()) < 0.005, name
    flat = torch.cat([weight.flatten() for weight in weights.values() if weight.dim() > 1])
    assert flat.unique().numel() > 0.99 * flat.numel(), "no two tensors share their values"

    recipe, _ = from_scratch(tmp_path)
    result, losses = train(recipe, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "start", dtype=torch.float32)
    assert losses == pytest.approx(reference_losses(model, model.parameters(), stream), rel=1e-3)
    recipe, _ = from_scratch(tmp_path, seed=1)
    assert train(recipe, tmp_path / "other")[1] != losses
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["Qwen2MoeForCausalLM"] and config["initializer_range"] == 0.05
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (tmp_path / "tokenizer/tokenizer.json").read_bytes()


@pytest.mark.parametrize("changes, message", [
    (dict(config=dict(model_type="qwen2_moe")), "hidden_size"),
    (dict(config=dict(model_type="nonsense")), "nonsense"),
    (dict(config="nowhere.json"), '"nowhere.json" is not there'),
    (dict(model="tokenizer"), "`config` beside `model`"),
    (dict(tokenizer=None), "`config` without `tokenizer`"),
    (dict(patience=3), "`patience` without `eval_every`"),
])
def test_bad_recipes_of_new_models_are_refused(changes, message, tmp_path):
    recipe, _ = from_scratch(tmp_path, **changes)
    result = run("train", recipe, tmp_path / "out", check=False)
    assert result.returncode != 0 and message in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_ends_when_evaluation_stalls(setup, tmp_path):
    recipe, _ = setup(steps=500, lr=0.5, min_lr=0.5, clip=0, held_out=0.1, eval_every=2, patience=3)
    result, losses = train(recipe, tmp_path / "out")
    evals = [json.loads(line)["eval_loss"] for line in (tmp_path / "out/train_metrics.jsonl").read_text().splitlines() if "eval_loss" in line]
    best = evals.index(min(evals))
    assert len(evals) == best + 4 and result["steps"] == len(losses) == 2 * (len(evals) - 1) < 500


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


@pytest.mark.parametrize("variant, changes", [("llama-tied", {}), ("llama-tied", dict(dtype="bfloat16")), ("deepseek_v3", dict(balance_bias=0.003))])
def test_resuming_gives_the_same_bytes(variant, changes, setup, tmp_path):
    recipe, _ = setup(variant, steps=150, save_every=0, shuffle=True, **changes)
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
    cut_after_first_save(recipe, tmp_path / "out")
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


def test_a_step_that_fails_keeps_the_state_before_it(setup, tmp_path):
    recipe, _ = setup(lr=10, min_lr=10, warmup=0, clip=0, weight_decay=10, steps=40)
    result = run("train", recipe, tmp_path / "out", check=False)
    failed = re.search(r"step (\d+): the (loss|norm of the gradient) is", result.stderr)
    assert result.returncode == 1 and failed, result.stderr
    kept = load_file(tmp_path / "out.training/state.safetensors")
    assert kept["steps_done"].item() == int(failed[1]) - 1
    assert all(tensor.isfinite().all() for name, tensor in kept.items() if name.startswith("master"))


def losses_of(out):
    return [line["loss"] for line in map(json.loads, (out / "train_metrics.jsonl").read_text().splitlines()) if "loss" in line]


def cut_after_first_save(recipe, out):
    process = subprocess.Popen([BINARY, "train", recipe, out, "--threads", "1"], stderr=subprocess.DEVNULL)
    while not Path(f"{out}.training/state.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()


def test_a_full_disk_keeps_the_old_state(setup, tmp_path):
    recipe, _ = setup(save_every=2, steps=2000)
    cut_after_first_save(recipe, tmp_path / "out")
    state = tmp_path / "out.training/state.safetensors"
    before = state.read_bytes()
    limit = len(before) // 2
    full = run("train", recipe, tmp_path / "out", "--resume", check=False, restore_signals=False,
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert full.returncode in (1, 4) and "state.safetensors" in full.stderr, full.stderr
    assert state.read_bytes() == before and not (tmp_path / "out").exists()


def test_other_base_weights_cannot_resume(setup, tmp_path):
    recipe, _ = setup(steps=2000, save_every=2, trainable="mlp")
    cut_after_first_save(recipe, tmp_path / "out")
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"][3, 7] += 0.25
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    refused = run("train", recipe, tmp_path / "out", "--resume", check=False)
    assert refused.returncode != 0 and "had another recipe, model or data" in refused.stderr


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
    (dict(trainable=["all", "router"]), "several of mlp, experts, router"),
    (dict(trainable=[]), "several of mlp, experts, router"),
    (dict(balance_bias=0.001), "llama has no bias that takes part in the choice of experts alone"),
])
def test_bad_recipes_are_refused_before_anything_runs(changes, message, setup, tmp_path):
    recipe, _ = setup(**changes)
    result = run("train", recipe, tmp_path / "out", check=False)
    assert result.returncode in (2, 3) or "seq_len" in message, result.stderr
    assert result.returncode != 0 and message in result.stderr
    assert not (tmp_path / "out").exists()
