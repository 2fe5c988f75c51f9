"""Chain-of-Experts: fresh and converted models against the transformers module that goes with them, and training against PyTorch."""

import json

import pytest
import torch
from test_train import RECIPE, add_tokenizer, reference_losses, train
from tiny_models import our_logits, run, save_variant
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)

COE = dict(
    model_type="coe_deepseekv2", vocab_size=320, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=4, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1, kv_lora_rank=16, q_lora_rank=None, qk_nope_head_dim=16,
    qk_rope_head_dim=8, v_head_dim=16, first_k_dense_replace=1, inner_iter=2, inner_residual=True, outer_residual=False, use_igate=True,
    norm_topk_prob=False, topk_method="greedy", n_group=1, topk_group=1, max_position_embeddings=128, tie_word_embeddings=False, initializer_range=0.1,
    bos_token_id=1, eos_token_id=2, dtype="float32")
IDS = torch.randint(0, 320, (2, 21), generator=torch.Generator().manual_seed(5)).tolist()


@pytest.fixture(autouse=True)
def own_module_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def fresh(tmp_path, name="fresh", **changes):
    (tmp_path / f"{name}.json").write_text(json.dumps({**COE, **changes}))
    run("chain", "--config", tmp_path / f"{name}.json", tmp_path / name, "--seed", 3)
    return tmp_path / name


def their_model(directory):
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype=torch.float32).eval()


def assert_same_logits(directory, tmp_path):
    with torch.no_grad():
        expected = their_model(directory)(torch.tensor(IDS)).logits
    assert expected.std() > 0.05
    assert (our_logits(directory, IDS, tmp_path) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("changes", [
    dict(inner_iter=1), dict(inner_iter=2), dict(inner_iter=4), dict(use_igate=False), dict(outer_residual=True), dict(inner_residual=False, outer_residual=True),
    dict(inner_iter=[1, 3, 2]), dict(chain_form="stream", chain_scale=0.7), dict(n_shared_experts=2, norm_topk_prob=True), dict(q_lora_rank=24, first_k_dense_replace=0)])
def test_transformers_module_gives_the_same_logits(changes, tmp_path):
    directory = fresh(tmp_path, "fresh-" + "-".join(f"{k}{v}".replace(" ", "").strip("[]") for k, v in changes.items()).replace(",", "_").replace("[", ""), **changes)
    assert_same_logits(directory, tmp_path)


@pytest.mark.parametrize("variant", ["qwen2_moe", "qwen3_moe", "mixtral", "qwen2_moe-sparse"])
def test_converted_models_run_in_transformers(variant, tmp_path):
    save_variant(variant, tmp_path / "source")
    out = tmp_path / f"chained-{variant}"
    run("chain", tmp_path / "source", out, "--iterations", 2)
    config = json.loads((out / "config.json").read_text())
    assert config["inner_iter"] == 2 and config["num_experts_per_tok"] == 1 and config["chain_scale"] == 0.5
    assert_same_logits(out, tmp_path)


def test_one_iteration_is_the_source(tmp_path):
    save_variant("qwen2_moe", tmp_path / "source")
    run("chain", tmp_path / "source", tmp_path / "chained", "--iterations", 1)
    assert (our_logits(tmp_path / "source", IDS, tmp_path) - our_logits(tmp_path / "chained", IDS, tmp_path)).abs().max() < 1e-5


def test_gates_carry_the_names_of_the_reference(tmp_path):
    from safetensors.torch import load_file

    names = load_file(fresh(tmp_path) / "model.safetensors").keys()
    assert {"model.layers.1.mlp.gate.0.weight", "model.layers.1.mlp.gate.1.weight", "model.layers.2.mlp.experts.5.down_proj.weight"} <= names
    names = load_file(fresh(tmp_path, "shared", use_igate=False) / "model.safetensors").keys()
    assert "model.layers.1.mlp.gate.weight" in names and "model.layers.1.mlp.gate.0.weight" not in names


def test_costs_are_printed_with_the_mixture_of_equal_compute(tmp_path):
    (tmp_path / "coe.json").write_text(json.dumps(COE))
    text = run("chain", "--config", tmp_path / "coe.json", tmp_path / "out").stdout
    assert "plain mixture with 4 of 6 experts a token and a shared expert 2 times as wide" in text
    report = json.loads(run("chain", "--config", tmp_path / "coe.json", tmp_path / "out", "--force", "--json").stdout)
    weights = 2 * 320 * 64 + 64                                     # embedding, head, final norm
    attention = 64 * 4 * 24 + 64 * 24 + 16 * 4 * 32 + 64 * 64 + 16 + 2 * 64
    assert report["parameters"] == weights + 3 * attention + 3 * 64 * 96 + 2 * (7 * 3 * 64 * 32 + 2 * 6 * 64)


@pytest.mark.parametrize("changes", [dict(), dict(use_igate=False, outer_residual=True), dict(chain_form="stream", chain_scale=0.5)])
def test_training_equals_pytorch(changes, tmp_path):
    form = changes if "chain_form" not in changes else {}
    if "chain_form" in changes:
        save_variant("qwen3_moe", tmp_path / "source")
        model_dir = tmp_path / "chained-train"
        run("chain", tmp_path / "source", model_dir, "--iterations", 2, "--top-k", 2)  # one expert with a weight of one teaches a router nothing
    else:
        model_dir = fresh(tmp_path, "train-" + "-".join(form), **form)
    tokenizer = add_tokenizer(model_dir)
    text = " ".join(f"{i} times {i % 7} makes {i * (i % 7)};" for i in range(400))
    (tmp_path / "data.txt").write_text(text)
    (tmp_path / "recipe.yml").write_text(json.dumps({"model": str(model_dir), "data": str(tmp_path / "data.txt"), **RECIPE}))
    _, losses = train(tmp_path / "recipe.yml", tmp_path / "out")
    model = their_model(model_dir)
    expected = reference_losses(model, model.parameters(), tokenizer.encode(text).ids + [2])
    assert expected[-1] < 0.8 * expected[0]
    assert losses == pytest.approx(expected, rel=1e-3)
    assert_same_logits(tmp_path / "out", tmp_path)


@pytest.mark.parametrize("arguments, message", [
    (["--iterations", 3], "do not divide among 3 iterations"),
    (["--iterations", 2, "--top-k", 7], "the model has 6 experts"),
])
def test_impossible_chains_are_refused(arguments, message, tmp_path):
    save_variant("qwen2_moe", tmp_path / "source")
    result = run("chain", tmp_path / "source", tmp_path / "out", *arguments, check=False)
    assert result.returncode == 2 and message in result.stderr and not (tmp_path / "out").exists()


def test_dense_and_chained_models_are_not_chained(tmp_path):
    save_variant("llama", tmp_path / "dense")
    assert "has no experts to chain" in run("chain", tmp_path / "dense", tmp_path / "out", check=False).stderr
    directory = fresh(tmp_path)
    assert "chained already" in run("chain", directory, tmp_path / "out", check=False).stderr


# ---- zip ---------------------------------------------------------------------------------------------------------------

SUMS = "\n".join(f"{i} times {i % 7} makes {i * (i % 7)};" for i in range(600))


def zipped(directory, tmp_path, out, *options, **check):
    (tmp_path / "text.txt").write_text(SUMS)
    return run("zip", directory, tmp_path / out, "--data", tmp_path / "text.txt", "--tokens", 3000, "--ctx", 64, "--json", *options, **check)


@pytest.mark.parametrize("method, changes", [("neuron", dict()), ("neuron", dict(inner_iter=[1, 3, 2], use_igate=False)), ("typed", dict(outer_residual=True)), ("neuron", None)])
def test_chained_experts_are_made_narrower(method, changes, tmp_path):
    """Each learns from what it sees in all iterations; `None` is the kept stream of a converted model."""
    if changes is None:
        save_variant("qwen3_moe", tmp_path / "source")
        directory = tmp_path / "chained-zip"
        run("chain", tmp_path / "source", directory, "--iterations", 2, "--top-k", 2)
    else:
        directory = fresh(tmp_path, "zip-" + method + "-".join(changes), **changes)
    tokens = add_tokenizer(directory).encode(SUMS).ids
    ids = [tokens[i:i + 48] for i in (0, 1000, 2000)]
    before = our_logits(directory, ids, tmp_path)
    zipped(directory, tmp_path, "all", "--keep", 1, "--method", method)
    assert (our_logits(tmp_path / "all", ids, tmp_path) - before).abs().max() < 1e-6

    report = json.loads(zipped(directory, tmp_path, "half", "--keep", 0.5, "--method", method).stdout)
    assert report["kept_expert_bytes"] == 0.5
    config = json.loads((directory / "config.json").read_text())
    iterations = config["inner_iter"] if isinstance(config["inner_iter"], list) else [config["inner_iter"]] * config["num_hidden_layers"]
    seen = {sum(layer["tokens"]) / (iterations[layer["layer"]] * config["num_experts_per_tok"]) for layer in report["layers"]}
    assert len(seen) == 1 and seen.pop() > 2000, "every token counts once an iteration"
    assert_same_logits(tmp_path / "half", tmp_path)
    zipped(directory, tmp_path, "unfitted", "--keep", 0.5, "--method", "neuron", "--refit", "none")
    error = {name: (our_logits(tmp_path / name, ids, tmp_path) - before).square().mean() for name in ("half", "unfitted")}
    assert error["half"] < error["unfitted"]


@pytest.mark.parametrize("options", [["--method", "reap"], ["--method", "heapr"], ["--format", "zipped"], ["--format", "zipped", "--budget", "loss"]])
def test_what_chains_cannot_take_is_refused(options, tmp_path):
    directory = fresh(tmp_path)
    add_tokenizer(directory)
    result = zipped(directory, tmp_path, "out", *options, check=False)
    assert result.returncode == 3 and "made narrower only" in result.stderr and not (tmp_path / "out").exists()
