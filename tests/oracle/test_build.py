"""`mixwright build` beside transformers (the output computes what our graph says) and beside mergekit-moe (its gates).
mergekit lives in an environment of its own, made by `tools/setup.sh mergekit`; without it that comparison is skipped."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from smollm2 import smollm2
from tiny_models import BINARY, VARIANTS, make_model, our_logits, run, save_variant
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

MERGEKIT = Path(__file__).resolve().parents[2] / "build/mergekit-venv/bin/python"
SAME = "--i-understand-this-is-not-useful-without-training"
CODE = ["def fibonacci(n):", "import numpy as np\nx = np.zeros(3)", "class Foo: pass"]
MATH = ["Solve for x: 3x + 4 = 10", "What is 15% of 200?"]
STORY = ["Once upon a time, in a land far away", "She looked at him and smiled"]
IDS = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(1)).tolist()


def write_recipe(path, **fields):
    path.write_text(yaml.safe_dump({k: v for k, v in fields.items() if v is not None}, sort_keys=False))
    return path


def expert(model, *prompts, **fields):
    return {"source_model": str(model), **({"positive_prompts": list(prompts)} if prompts else {}), **fields}


def tensors_of(directory):
    result = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        result.update(load_file(file))
    return result


def dense_models(variant, tmp_path, count=3, **save_options):
    for i in range(count):
        save_variant(variant, tmp_path / f"m{i}", seed=i, **save_options)
    return [tmp_path / f"m{i}" for i in range(count)]


def add_tokenizer(directory, vocab_size=320):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CODE + MATH + STORY, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def router_rows(directory):
    tensors = tensors_of(directory)
    names = {int(n.split(".")[2]): n for n in tensors if n.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight"))}
    return torch.stack([tensors[names[i]].float() for i in sorted(names)])


# ---- what is written ------------------------------------------------------------------------------------------------

CASES = [(v, "per-expert") for v in ("llama-tied", "llama-head-dim", "llama-rope-llama3", "llama-rope-yarn_mscale", "mistral-window", "qwen3", "qwen3-biased")]


@pytest.mark.parametrize("variant, layout", CASES + [("llama", "fused"), ("qwen3", "fused")])
def test_the_output_computes_the_same_in_transformers(variant, layout, tmp_path):
    base, one, two = dense_models(variant, tmp_path)
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", experts=[expert(one), expert(two), expert(base)])
    out = tmp_path / "out"
    run("build", recipe, out, "--self-test", "--layout", layout)
    reference = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(torch.tensor(IDS)).logits
    assert (our_logits(out, IDS, tmp_path) - expected).abs().max() < 1e-4
    if layout == "per-expert":
        written, source = tensors_of(out), tensors_of(one)
        prefix, parts = ("block_sparse_moe.experts.0.", ("w1", "w3", "w2")) if "qwen" not in variant else ("mlp.experts.0.", ("gate_proj", "up_proj", "down_proj"))
        for ours, theirs in zip(parts, ("gate_proj", "up_proj", "down_proj")):
            assert torch.equal(written[f"model.layers.1.{prefix}{ours}.weight"], source[f"model.layers.1.mlp.{theirs}.weight"])


@pytest.mark.parametrize("variant, num_shared", [("qwen2", 1), ("qwen2-window", 2), ("llama", 2), ("mistral-window", 1)])
def test_shared_experts_become_one_wide_expert(variant, num_shared, tmp_path):
    base, one, two = dense_models(variant, tmp_path)
    shared = [expert(two, residual_scale=0.5), expert(one, residual_scale=0.25)][:num_shared]
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="uniform_random", architecture="qwen moe",
                          experts=[expert(one), expert(two)], shared_experts=shared)
    out = tmp_path / "out"
    run("build", recipe, out, "--self-test")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()(torch.tensor(IDS)).logits
    assert (our_logits(out, IDS, tmp_path) - expected).abs().max() < 1e-4
    down = tensors_of(out)["model.layers.0.mlp.shared_expert.down_proj.weight"]
    parts = [tensors_of(m)["model.layers.0.mlp.down_proj.weight"] * s for m, s in [(two, 0.5), (one, 0.25)][:num_shared]]
    assert torch.equal(down, torch.cat(parts, 1))


def test_some_layers_stay_dense(tmp_path):
    base, one, two = dense_models("qwen3", tmp_path)
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", layers=[1], experts=[expert(one), expert(two)])
    out = tmp_path / "out"
    run("build", recipe, out, "--self-test")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()(torch.tensor(IDS)).logits
    assert (our_logits(out, IDS, tmp_path) - expected).abs().max() < 1e-4
    assert torch.equal(tensors_of(out)["model.layers.0.mlp.up_proj.weight"], tensors_of(base)["model.layers.0.mlp.up_proj.weight"])


def test_deepseek_passes_its_self_test(tmp_path):
    base, one, two = dense_models("llama", tmp_path)
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", experts=[expert(one), expert(two)],
                          shared_experts=[expert(two), expert(base)], layers="1-")
    run("build", recipe, tmp_path / "out", "--self-test")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["n_shared_experts"], config["first_k_dense_replace"]) == ("deepseek", 2, 1)
    assert "AutoModelForCausalLM" in config["auto_map"]


def test_the_files_beside_the_weights(tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    add_tokenizer(base)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", experts=[expert(base), expert(one)])
    out = tmp_path / "out"
    planned = json.loads(run("build", recipe, out, "--dry-run", "--json").stdout)
    assert not out.exists() and not list(tmp_path.glob("out*"))
    done = json.loads(run("build", recipe, out, "--json").stdout)
    assert done["bytes"] == planned["bytes"] == sum(f.stat().st_size for f in out.iterdir())
    assert done["parameters"] == sum(t.numel() for t in tensors_of(out).values())
    assert done["peak_rss_bytes"] > 0 and done["out"] == str(out)
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]:
        assert (out / name).read_bytes() == (base / name).read_bytes(), name
    assert (out / "mergekit_moe_config.yml").read_bytes() == recipe.read_bytes()
    front = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "apache-2.0" and front["base_model"] == ["m0", "m1"] and "moe" in front["tags"]


# ---- gates ----------------------------------------------------------------------------------------------------------

MODES = ["hidden", "hidden_avg", "hidden_last", "cheap_embed"]

# Runs inside mergekit's environment: its own router on its own tokenizer set-up, all modes in one process.
THEIR_GATES = """
import sys, yaml, torch, transformers
from safetensors.torch import save_file
from mergekit.moe.config import MoEMergeConfig
from mergekit.moe.router import get_gate_params
recipe, out, *modes = sys.argv[1:]
config = MoEMergeConfig.model_validate(yaml.safe_load(open(recipe)))
tokenizer = transformers.AutoTokenizer.from_pretrained(config.base_model.model.path)
tokenizer.padding_side, tokenizer.pad_token_id = "left", tokenizer.bos_token_id
save_file({m: get_gate_params(config.base_model, tokenizer, config.experts, mode=m, device="cpu").float().contiguous() for m in modes}, out)
"""


def compare_with_mergekit(base, tmp_path):
    experts = [expert(base, *CODE), expert(base, *MATH, negative_prompts=STORY), expert(base, *STORY)]
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), experts=experts)
    subprocess.run([MERGEKIT, "-c", THEIR_GATES, recipe, tmp_path / "theirs.safetensors", *MODES], check=True, capture_output=True)
    theirs = load_file(tmp_path / "theirs.safetensors")
    for mode in MODES:
        write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode=mode, dtype="float32", experts=experts)
        run("build", tmp_path / "r.yml", tmp_path / mode, SAME, "--no-routing")
        cosines = torch.nn.functional.cosine_similarity(router_rows(tmp_path / mode), theirs[mode], dim=-1)
        assert cosines.min() > 0.999 and cosines.mean() > 0.9999, (mode, cosines.min(), cosines.mean())


@pytest.mark.skipif(not MERGEKIT.exists(), reason="no mergekit: tools/setup.sh mergekit")
def test_gates_agree_with_mergekit_on_a_small_qwen3(tmp_path):
    save_variant("qwen3", tmp_path / "base")
    add_tokenizer(tmp_path / "base")
    compare_with_mergekit(tmp_path / "base", tmp_path)


@pytest.mark.skipif(not MERGEKIT.exists() or "MIXWRIGHT_SLOW" not in os.environ, reason="slow: set MIXWRIGHT_SLOW, and tools/setup.sh mergekit")
def test_gates_agree_with_mergekit_on_smollm2(tmp_path, tmp_path_factory):
    compare_with_mergekit(smollm2(tmp_path_factory), tmp_path)


def test_ridge_gates_tell_domains_apart(tmp_path):
    base, one, two = dense_models("llama", tmp_path)
    add_tokenizer(base)
    (tmp_path / "a.txt").write_text("def f(x): return x + 1\nimport numpy as np\n" * 200)
    (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    turns = [{"role": "user", "content": "Once upon a time"}, {"role": "assistant", "content": "she smiled at him far away."}]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"messages": turns}) for _ in range(200)))
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="ridge", experts_per_token=1,
                          ridge={"tokens_per_expert": 2000, "context": 32},
                          experts=[expert(one, data=str(tmp_path / "a.txt")), expert(two, data=str(tmp_path / "b.jsonl"))])
    done = json.loads(run("build", recipe, tmp_path / "out", "--json").stdout)
    assert done["ridge"]["accuracy"] > 0.95
    assert len(done["ridge"]["layers"]) == 3 and all(0.1 < layer["scale"] < 1000 for layer in done["ridge"]["layers"])
    first = torch.tensor(done["routing"]["first"])
    assert first.shape == (3, 2, 2) and torch.allclose(first.sum(-1), torch.ones(3, 2, dtype=first.dtype))
    assert done["routing"]["accuracy"] > 0.7  # random experts move the states that the router was fitted to


def test_router_input_gates_differ_from_layer_input_gates(tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    add_tokenizer(base)
    rows = []
    for place in ["layer", "router"]:
        recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_input=place, experts=[expert(base, *CODE), expert(one, *MATH)])
        run("build", recipe, tmp_path / place)
        rows.append(router_rows(tmp_path / place))
    assert (torch.nn.functional.cosine_similarity(*rows, dim=-1) < 0.999).all()
    assert torch.allclose(rows[1].norm(dim=-1), torch.ones(3, 2), atol=1e-3)


def test_a_lora_expert_is_its_merged_model(tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    a, b = torch.randn(4, 64), torch.randn(96, 4)
    prefix = "base_model.model.model.layers.1.mlp.gate_proj"
    save_file({f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["gate_proj"]}))
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", experts=[expert(f"{one}+{adapter}"), expert(base)])
    run("build", recipe, tmp_path / "out")
    written = tensors_of(tmp_path / "out")["model.layers.1.block_sparse_moe.experts.0.w1.weight"]
    merged = tensors_of(one)["model.layers.1.mlp.gate_proj.weight"] + 2.0 * b @ a
    assert torch.allclose(written, merged, atol=1e-5)


# ---- refusals -------------------------------------------------------------------------------------------------------

def refused(tmp_path, recipe, *options, status):
    result = run("build", recipe, tmp_path / "out", *options, check=False)
    assert result.returncode == status, result.stderr
    assert not list(tmp_path.glob("out*")), "something was written"
    return result.stderr


def changed_config(directory, **changes):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def test_models_that_do_not_fit_are_listed_at_once(tmp_path):
    base = dense_models("llama", tmp_path, 1)[0]
    torch.manual_seed(0)
    make_model("llama", dict(hidden_size=128)).save_pretrained(tmp_path / "wide")
    make_model("llama", dict(num_hidden_layers=2)).save_pretrained(tmp_path / "short")
    make_model("llama", dict(intermediate_size=64)).save_pretrained(tmp_path / "thin")
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random",
                          experts=[expert(base), expert(tmp_path / "wide"), expert(tmp_path / "short"), expert(tmp_path / "thin")])
    message = refused(tmp_path, recipe, status=3)
    assert "wide: hidden_size is 128, the base has 64" in message
    assert "short: num_hidden_layers is 2, the base has 3" in message
    assert "thin: intermediate_size is 64, expert 0" in message


def test_missing_models_and_tensors_are_told_before_anything_is_written(tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    tensors = load_file(one / "model.safetensors")
    del tensors["model.layers.2.mlp.down_proj.weight"]
    save_file(tensors, one / "model.safetensors", {"format": "pt"})
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", experts=[expert(one), expert(tmp_path / "nowhere")])
    message = refused(tmp_path, recipe, status=3)
    assert "model.layers.2.mlp.down_proj.weight" in message and "is missing" in message
    assert "nowhere" in message


def test_differing_vocabularies_are_refused_unless_allowed(tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    add_tokenizer(base)
    add_tokenizer(one)
    changed = json.loads((one / "tokenizer.json").read_text())
    vocab = changed["model"]["vocab"]
    vocab["!"], vocab["#"] = vocab["#"], vocab["!"]
    (one / "tokenizer.json").write_text(json.dumps(changed))
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", experts=[expert(base), expert(one)])
    message = refused(tmp_path, recipe, status=3)
    assert "2 of 320 tokens differ" in message and "--allow-mismatch" in message
    run("build", recipe, tmp_path / "out", "--allow-mismatch")


def test_tokens_beyond_the_embedding_are_refused(tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    add_tokenizer(base, vocab_size=400)
    changed = json.loads((base / "tokenizer.json").read_text())
    changed["added_tokens"].append({"id": 999, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True})
    (base / "tokenizer.json").write_text(json.dumps(changed))
    for mode in ["hidden", "cheap_embed"]:
        recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode=mode, experts=[expert(base, "<new> hi"), expert(one, "ho")])
        assert "is not among the model's 320 embeddings" in refused(tmp_path, recipe, status=3)


def test_weights_that_are_no_numbers_are_found_by_verify(tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    tensors = load_file(one / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, one / "model.safetensors", {"format": "pt"})
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", experts=[expert(base), expert(one)])
    message = refused(tmp_path, recipe, "--verify", status=3)
    assert "model.layers.0.mlp.up_proj.weight: 1 of 6144 values are NaN or infinite" in message


@pytest.mark.parametrize("change, status, expected", [
    (dict(gateway_mode="random"), 2, 'did you mean "gate_mode"?'),
    (dict(gate_mode="embed"), 2, 'unknown gate_mode "embed"'),
    (dict(experts_per_token=3), 2, "experts_per_token is 3, but there are only 2 experts"),
    (dict(tokenizer_source="union"), 2, "one vocabulary, the base model's"),
    (dict(architecture="qwen3"), 3, "Qwen3 MoE: takes qwen3 models, not llama"),
    (dict(layers="7-9"), 2, "names none of the model's 3 layers"),
])
def test_recipes_are_refused_before_a_byte_is_written(change, status, expected, tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    fields = {"base_model": str(base), "gate_mode": "random", "experts": [expert(base), expert(one)], **change}
    message = refused(tmp_path, write_recipe(tmp_path / "r.yml", **fields), status=status)
    assert expected in message


def test_an_existing_output_and_later_options_are_refused(tmp_path):
    base, one, _ = dense_models("llama", tmp_path)
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(base), gate_mode="random", experts=[expert(base), expert(one)])
    assert "mixwright export" in refused(tmp_path, recipe, "--gguf", "q8_0", status=3)
    (tmp_path / "there").mkdir()
    result = run("build", recipe, tmp_path / "there", check=False)
    assert result.returncode == 2 and "--force" in result.stderr


# ---- interruption ---------------------------------------------------------------------------------------------------

def test_a_killed_build_resumes_to_the_same_bytes(tmp_path):
    for i in range(2):
        model = make_model("llama", dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=4), seed=i).to(torch.bfloat16)
        model.save_pretrained(tmp_path / f"m{i}")
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(tmp_path / "m0"), gate_mode="random", experts=[expert(tmp_path / f"m{i % 2}", noise_scale=0.01) for i in range(6)])
    options = ["--out-shard-size", "10MB", "--progress", "none", "--no-card"]
    run("build", recipe, tmp_path / "whole", *options)
    process = subprocess.Popen([BINARY, "build", str(recipe), str(tmp_path / "out"), *options])
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and len(list(tmp_path.glob("out.partial/*.safetensors"))) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists(), "the build was over before it could be killed"
    run("build", recipe, tmp_path / "out", "--resume", *options)
    files = sorted(f.name for f in (tmp_path / "whole").iterdir())
    assert files == sorted(f.name for f in (tmp_path / "out").iterdir())
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
