"""`mixwright split`: exact inverse of build, loads in transformers, fits that approximate; refusals."""

import json

import pytest
import torch
from test_build import CODE, MATH, STORY, add_tokenizer, expert, tensors_of, write_recipe
from tiny_models import VARIANTS, our_logits, run, save_variant
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

IDS = torch.randint(3, 320, (2, 40), generator=torch.Generator().manual_seed(1)).tolist()
MOE = ["mixtral", "mixtral-window", "qwen2_moe", "qwen2_moe-norm", "qwen2_moe-sparse", "qwen3_moe", "qwen3_moe-raw"]


def logits_of(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits


def moe_with_tokenizer(variant, tmp_path):
    save_variant(variant, tmp_path / "moe", seed=0)
    add_tokenizer(tmp_path / "moe")
    (tmp_path / "text.txt").write_text("\n".join(CODE + MATH + STORY) * 40)
    return tmp_path / "moe", tmp_path / "text.txt"


# ---- exact inverse of build -------------------------------------------------------------------------------------------

BUILDS = {"Mixtral": ("llama-tied", {}), "Qwen MoE": ("qwen2", dict(shared_experts=True)), "Qwen3 MoE": ("qwen3", {})}


@pytest.mark.parametrize("architecture", BUILDS)
def test_split_undoes_build_bit_for_bit(architecture, tmp_path):
    variant, extra = BUILDS[architecture]
    models = [tmp_path / f"m{i}" for i in range(3)]
    for i, model in enumerate(models):
        save_variant(variant, model, seed=i)
    fields = dict(shared_experts=[expert(models[2])]) if extra else {}
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(models[0]), gate_mode="random", architecture=architecture,
                          experts=[expert(m) for m in models], **fields)
    run("build", recipe, tmp_path / "moe")
    run("split", tmp_path / "moe", tmp_path / "dense", "--all")
    base = tensors_of(models[0])
    for i, model in enumerate(models):
        dense, source = tensors_of(tmp_path / f"dense/expert-{i}"), tensors_of(model)
        assert dense.keys() == base.keys()
        for name, tensor in dense.items():
            assert torch.equal(tensor, source[name] if ".mlp." in name else base[name]), name
    # An expert that is the base makes the base.
    assert torch.allclose(logits_of(tmp_path / "dense/expert-0"), logits_of(models[0]), atol=1e-5)

    # And build of what was split gives the same tensors again.
    parts = [tmp_path / f"dense/expert-{i}" for i in range(3)]
    again = write_recipe(tmp_path / "again.yml", base_model=str(parts[0]), gate_mode="random", architecture=architecture,
                         experts=[expert(p) for p in parts], **(dict(shared_experts=[expert(models[2])]) if extra else {}))
    run("build", again, tmp_path / "moe2")
    first, second = tensors_of(tmp_path / "moe"), tensors_of(tmp_path / "moe2")
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


# ---- every architecture -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method, variant", [("slice", v) for v in MOE] + [("concat", v) for v in ("mixtral", "qwen2_moe-sparse")])
def test_the_dense_model_computes_the_same_in_transformers(method, variant, tmp_path):
    save_variant(variant, tmp_path / "moe", seed=0)
    run("split", tmp_path / "moe", tmp_path / "dense", "--method", method, *(["--expert", 1] if method == "slice" else []))
    ours = our_logits(tmp_path / "dense", IDS, tmp_path)
    assert (ours - logits_of(tmp_path / "dense")).abs().max() < 1e-4


def change(moe, edit):
    """Loads a saved model, lets `edit` change each parameter in place, saves it again."""
    model = AutoModelForCausalLM.from_pretrained(moe, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            edit(name, parameter)
    model.save_pretrained(moe)


@pytest.mark.parametrize("variant", ["mixtral-top1", "mixtral", "qwen3_moe"])
def test_when_all_experts_are_one_the_dense_model_is_the_mixture(variant, tmp_path):
    save_variant(variant, tmp_path / "moe", seed=0)
    change(tmp_path / "moe", lambda name, p: p.copy_(p[:1].expand_as(p)) if "experts." in name else None)
    run("split", tmp_path / "moe", tmp_path / "dense", "--expert", 2)
    mixture, dense = our_logits(tmp_path / "moe", IDS, tmp_path), our_logits(tmp_path / "dense", IDS, tmp_path)
    assert (mixture - dense).abs().max() < 1e-4


def test_experts_per_layer_takes_each_layer_its_own(tmp_path):
    save_variant("mixtral", tmp_path / "moe", seed=0)
    (tmp_path / "e.json").write_text("[2, [0, 1], 3]")
    run("split", tmp_path / "moe", tmp_path / "dense", "--experts-per-layer", tmp_path / "e.json")
    moe, dense = tensors_of(tmp_path / "moe"), tensors_of(tmp_path / "dense")
    experts = [moe[f"model.layers.{layer}.block_sparse_moe.experts.{e}.w1.weight"] for layer, e in [(0, 2), (1, 0), (1, 1), (2, 3)]]
    gates = [dense[f"model.layers.{layer}.mlp.gate_proj.weight"] for layer in range(3)]
    width = experts[0].shape[0]
    assert torch.equal(gates[0][:width], experts[0]) and gates[0][width:].abs().max() == 0  # filled up to the widest layer
    assert torch.equal(gates[1], torch.cat(experts[1:3])) and torch.equal(gates[2][:width], experts[3])


# ---- fits -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", ["mixtral", "qwen2_moe-sparse", "qwen3_moe"])
def test_a_fit_is_nearer_to_the_mixture_than_any_expert(variant, tmp_path):
    moe, text = moe_with_tokenizer(variant, tmp_path)
    common = ["--data", text, "--tokens", 1500, "--ctx", 64, "--no-report"]
    run("split", moe, tmp_path / "fit", "--method", "fit", *common)
    run("split", moe, tmp_path / "concat", "--method", "concat", *common)
    run("split", moe, tmp_path / "slice", "--expert", 0)
    ids = [Tokenizer.from_file(str(moe / "tokenizer.json")).encode(text.read_text()).ids[i:i + 64] for i in (0, 30)]
    mixture = our_logits(moe, ids, tmp_path)
    error = {name: (our_logits(tmp_path / name, ids, tmp_path) - mixture).square().mean() for name in ["fit", "concat", "slice"]}
    assert error["fit"] < error["slice"] and error["fit"] < error["concat"]
    assert (our_logits(tmp_path / "fit", IDS, tmp_path) - logits_of(tmp_path / "fit")).abs().max() < 1e-4


def test_a_fit_over_all_neurons_of_a_mixture_that_uses_all_is_exact(tmp_path):
    """With every expert active and equal weights the mixture is a dense model; the fit must find it."""
    moe, text = moe_with_tokenizer("mixtral", tmp_path)
    config = json.loads((moe / "config.json").read_text())
    config["num_experts_per_tok"] = config["num_local_experts"]
    (moe / "config.json").write_text(json.dumps(config))
    change(moe, lambda name, p: p.zero_() if name.endswith("mlp.gate.weight") else None)
    width = config["num_local_experts"] * config["intermediate_size"]
    run("split", moe, tmp_path / "fit", "--method", "fit", "--width", width, "--data", text, "--tokens", 4000, "--ctx", 64, "--no-report")
    mixture, fit = our_logits(moe, IDS, tmp_path), our_logits(tmp_path / "fit", IDS, tmp_path)
    assert (mixture - fit).abs().max() < 0.02 * mixture.abs().max()


def test_the_report_compares_the_mixture_with_what_was_made_of_it(tmp_path):
    moe, text = moe_with_tokenizer("qwen3_moe", tmp_path)
    done = json.loads(run("split", moe, tmp_path / "dense", "--method", "fit", "--data", text, "--tokens", 1500, "--ctx", 64, "--json").stdout)
    assert [line["model"] for line in done["report"]] == ["mixture", "fit"]
    assert all(1 < line["ppl"]["text.txt"] < 1000 for line in done["report"])
    assert done["models"][0]["width"] == 96 and len(done["models"][0]["layers"]) == 3
    assert done["active_parameters"] == done["parameters"] > 0


@pytest.mark.parametrize("method", ["mean", "slerp", "routed"])
def test_naive_methods_run(method, tmp_path):
    moe, text = moe_with_tokenizer("mixtral", tmp_path)
    run("split", moe, tmp_path / "dense", "--method", method, "--data", text, "--tokens", 1000, "--ctx", 64)
    dense = tensors_of(tmp_path / "dense")
    moe_tensors = tensors_of(moe)
    if method == "mean":
        fused = "model.layers.0.mlp.experts.gate_up_proj"
        assert dense["model.layers.0.mlp.gate_proj.weight"].isfinite().all() and fused not in dense
    assert len(dense) < len(moe_tensors) + 20 and all(t.isfinite().all() for t in dense.values())


# ---- refusals ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, status, message", [
    (["--expert", 4], 2, "the model has 4 experts"),
    (["--expert", "x"], 2, "not a number"),
    (["--expert", "shared"], 2, "no shared expert"),
    ([], 2, "which expert?"),
    (["--expert", 1, "--all"], 2, "exclude each other"),
    (["--method", "fitt", "--data", "text.txt"], 2, "not known"),
    (["--method", "fit"], 2, "needs --data"),
    (["--method", "concat", "--width", 97], 2, "whole experts"),
    (["--method", "fit", "--data", "text.txt", "--width", 100000], 2, "neurons in all"),
    (["--method", "fit", "--data", "short.txt"], 3, "only"),
    (["--experts-per-layer", "e.json"], 2, "each of the 3 MoE layers (got 2 entries)"),
    (["--experts-per-layer", "bad.json"], 2, "entry 1: expert 9 is not there"),
])
def test_refusals_say_what_is_wrong(options, status, message, tmp_path):
    moe, _ = moe_with_tokenizer("mixtral", tmp_path)
    (tmp_path / "short.txt").write_text("a b")
    (tmp_path / "e.json").write_text("[1, 2]")
    (tmp_path / "bad.json").write_text("[1, 9, 2]")
    options = [tmp_path / o if isinstance(o, str) and o.endswith((".txt", ".json")) else o for o in options]
    failed = run("split", moe, tmp_path / "dense", *options, check=False)
    assert failed.returncode == status and message in failed.stderr, failed.stderr
    assert not (tmp_path / "dense").exists()


def test_a_dense_model_is_refused(tmp_path):
    save_variant("llama", tmp_path / "m", seed=0)
    failed = run("split", tmp_path / "m", tmp_path / "dense", "--all", check=False)
    assert failed.returncode != 0 and "no experts" in failed.stderr
