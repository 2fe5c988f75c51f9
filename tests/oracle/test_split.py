"""`mixwright split`: exact inverse of build, loads in transformers, fits that approximate; refusals."""

import json
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import save_file
from test_build import CODE, MATH, STORY, add_tokenizer, expert, tensors_of, write_recipe
from tiny_models import BINARY, VARIANTS, make_model, our_logits, run, save_variant
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

IDS = torch.randint(3, 320, (2, 40), generator=torch.Generator().manual_seed(1)).tolist()
MOE = [name for name, (model_type, _) in VARIANTS.items() if hasattr(AutoConfig.for_model(model_type), "num_experts_per_tok") or "moe" in model_type or model_type == "dbrx"]
MOE.remove("qwen3_moe-sparse")  # its three layers are all dense
TWINS = {"mixtral": "mistral", "qwen2_moe": "qwen2", "qwen3_moe": "qwen3", "granitemoe": "granite", "granitemoeshared": "granite"}
REFUSED = {"phimoe": "always chooses two experts"}


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

def reload(directory):
    """The logits transformers computes, and that it found every tensor."""
    model, report = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits


@pytest.mark.parametrize("variant", MOE)
def test_the_dense_model_computes_the_same_in_transformers(variant, tmp_path):
    save_variant(variant, tmp_path / "moe", seed=0)
    model_type = VARIANTS[variant][0]
    if model_type in REFUSED:
        failed = run("split", tmp_path / "moe", tmp_path / "slice", "--expert", 1, check=False)
        assert failed.returncode != 0 and REFUSED[model_type] in failed.stderr and not (tmp_path / "slice").exists()
        return
    run("split", tmp_path / "moe", tmp_path / "slice", "--expert", 1)
    run("split", tmp_path / "moe", tmp_path / "concat", "--method", "concat")
    for name in ("slice", "concat"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["model_type"] == TWINS.get(model_type, model_type), "what cannot be said by another architecture stays in its own"
        ours = our_logits(tmp_path / name, IDS, tmp_path)
        assert ours.isfinite().all() and (ours - reload(tmp_path / name)).abs().max() < 1e-4, name


def test_deepseek_of_the_first_kind_becomes_llama(tmp_path):
    """transformers has no class for DeepSeek-MoE; for what comes out it has."""
    models = [tmp_path / f"m{i}" for i in range(3)]
    for i, model in enumerate(models):
        save_variant("llama", model, seed=i)
    recipe = write_recipe(tmp_path / "r.yml", base_model=str(models[0]), gate_mode="random", experts=[expert(m) for m in models[1:]],
                          shared_experts=[expert(models[2]), expert(models[0])], layers="1-")
    run("build", recipe, tmp_path / "moe")
    for options in (["--expert", 0, "--shared", "concat"], ["--method", "concat"]):
        run("split", tmp_path / "moe", tmp_path / "dense", *options, "--force")
        assert json.loads((tmp_path / "dense/config.json").read_text())["model_type"] == "llama"
        assert (our_logits(tmp_path / "dense", IDS, tmp_path) - reload(tmp_path / "dense")).abs().max() < 1e-4


def test_chained_experts_are_refused(tmp_path):
    save_variant("qwen3_moe", tmp_path / "moe", seed=0)
    run("chain", tmp_path / "moe", tmp_path / "chained", "--iterations", 2)
    failed = run("split", tmp_path / "chained", tmp_path / "dense", "--all", check=False)
    assert failed.returncode != 0 and "work on each other's output" in failed.stderr and not (tmp_path / "dense").exists()


def test_names_that_cannot_be_placed_are_told(tmp_path):
    save_variant("mixtral", tmp_path / "moe", seed=0)
    file = tmp_path / "moe/model.safetensors"
    save_file({name.replace("block_sparse_moe.experts", "moe.expert"): tensor for name, tensor in tensors_of(tmp_path / "moe").items()}, file, metadata={"format": "pt"})
    failed = run("split", tmp_path / "moe", tmp_path / "dense", "--all", check=False)
    assert failed.returncode != 0 and "model.layers.0.block_sparse_moe.experts.0.w" in failed.stderr and "moe.expert" in failed.stderr, failed.stderr


def mergekit_mixtral(sources, out):
    """A Mixtral as mergekit-moe saves it: bf16 shards under the names of transformers 4, its config, its recipe beside it."""
    tensors = [tensors_of(source) for source in sources]
    merged = {}
    for name, tensor in tensors[0].items():
        if ".mlp." not in name:
            merged[name] = tensor
            continue
        layer, part = name.split(".mlp.")
        short = {"gate_proj.weight": "w1", "down_proj.weight": "w2", "up_proj.weight": "w3"}[part]
        for e, model in enumerate(tensors):
            merged[f"{layer}.block_sparse_moe.experts.{e}.{short}.weight"] = model[name]
        merged.setdefault(f"{layer}.block_sparse_moe.gate.weight", torch.randn(len(sources), 64))
    out.mkdir()
    config = json.loads((sources[0] / "config.json").read_text())
    names = sorted(merged)
    shards = [names[i::3] for i in range(3)]
    index = {"metadata": {"mergekit_version": "0.1.5", "total_size": sum(t.numel() * 2 for t in merged.values())}, "weight_map": {}}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-00003.safetensors"
        save_file({name: merged[name].to(torch.bfloat16).contiguous() for name in shard}, out / file, metadata={"format": "pt"})
        index["weight_map"].update(dict.fromkeys(shard, file))
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    kept = {k: config[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                                   "max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id", "hidden_act", "tie_word_embeddings")}
    (out / "config.json").write_text(json.dumps({**kept, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": len(sources),
                                                 "num_experts_per_tok": 2, "rope_theta": 10000.0, "sliding_window": None, "output_router_logits": False,
                                                 "router_aux_loss_coef": 0.001, "torch_dtype": "bfloat16", "transformers_version": "4.45.2"}))
    (out / "mergekit_moe_config.yml").write_text("base_model: m0\ngate_mode: random\n")


def test_a_mixtral_made_by_mergekit_comes_back_bit_for_bit(tmp_path):
    sources = [tmp_path / f"m{i}" for i in range(3)]
    for i, source in enumerate(sources):
        save_variant("llama", source, seed=i)
    mergekit_mixtral(sources, tmp_path / "moe")
    run("split", tmp_path / "moe", tmp_path / "dense", "--all")
    base = tensors_of(sources[0])
    for i, source in enumerate(sources):
        own, dense = tensors_of(source), tensors_of(tmp_path / f"dense/expert-{i}")
        assert dense.keys() == own.keys()
        for name, tensor in dense.items():
            assert torch.equal(tensor, (own[name] if ".mlp." in name else base[name]).to(torch.bfloat16)), name


def change(moe, edit):
    """Loads a saved model, lets `edit` change each parameter in place, saves it again."""
    model = AutoModelForCausalLM.from_pretrained(moe, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            edit(name, parameter)
    model.save_pretrained(moe)


@pytest.mark.parametrize("variant", ["mixtral-top1", "mixtral", "qwen3_moe", "olmoe-clipped", "gpt_oss", "granitemoe", "dbrx"])
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

@pytest.mark.parametrize("variant", ["mixtral", "qwen2_moe-sparse", "qwen3_moe", "gpt_oss", "deepseek_v3", "llama4_text"])
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
    for line in done["report"]:
        assert 1 < line["ppl"]["text.txt"] < 1000 and line["prefill_tokens_per_second"] > 0 and line["decode_tokens_per_second"] > 0 and line["sample"]
    assert done["report"][1]["bytes"] == sum(t.numel() * t.element_size() for t in tensors_of(tmp_path / "dense").values())
    assert done["models"][0]["width"] == 96 and len(done["models"][0]["layers"]) == 3
    assert done["active_parameters"] == done["parameters"] > 0
    card = (tmp_path / "dense/README.md").read_text()
    assert "## Report" in card and f"{done['report'][1]['ppl']['text.txt']:.3f}" in card


def test_a_fit_wider_than_the_greedy_choice_goes_by_rows(tmp_path):
    """8,300 neurons of 10,000: chosen by energy, fitted through the products of rows with rows."""
    make_model("mixtral", dict(intermediate_size=5000, num_local_experts=2, num_experts_per_tok=2, num_hidden_layers=1)).save_pretrained(tmp_path / "moe")
    add_tokenizer(tmp_path / "moe")
    (tmp_path / "text.txt").write_text("\n".join(CODE + MATH + STORY) * 40)
    done = json.loads(run("split", tmp_path / "moe", tmp_path / "dense", "--data", tmp_path / "text.txt", "--tokens", 600, "--ctx", 64, "--width", 8300, "--no-report", "--json").stdout)
    layer = done["models"][0]["layers"][0]
    assert 0 <= layer["held_out_error"] < 0.5, layer
    assert (our_logits(tmp_path / "dense", IDS, tmp_path) - reload(tmp_path / "dense")).abs().max() < 1e-4


# ---- students of a trained mixture ----------------------------------------------------------------------------------------

def sums(i):
    return f"{i % 90} plus {i % 7} is {i % 90 + i % 7}."


def words(i):
    names = ["ann", "bob", "cat", "dan", "eve"]
    return f"{names[i % 5]} likes {names[(i * 3 + 1) % 5]} but {names[(i * 2 + 1) % 5]} likes tea."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small mixture that knows two kinds of text, and a file of each."""
    folder = tmp_path_factory.mktemp("trained")
    for name, make in (("sums", sums), ("words", words)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": " ".join(make(7 * i + k) for k in range(8))}) + "\n" for i in range(400)))
    (folder / "tokenizer").mkdir()
    add_tokenizer(folder / "tokenizer")
    config = dict(model_type="qwen3_moe", hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=8,
                  num_experts_per_tok=2, moe_intermediate_size=32, max_position_embeddings=128, norm_topk_prob=True, tie_word_embeddings=True)
    recipe = dict(config=config, tokenizer="tokenizer", data=["sums.jsonl", "words.jsonl"], steps=250, batch_size=8, seq_len=64, lr=4e-3, warmup=0.1, dtype="float32", balance_loss=0.01)
    (folder / "recipe.yml").write_text(json.dumps(recipe))
    run("train", folder / "recipe.yml", folder / "moe")
    return folder


def split_trained(trained, out, *options):
    data = [f for name in ("sums", "words") for f in ("--data", trained / f"{name}.jsonl")]
    done = json.loads(run("split", trained / "moe", out, *data, "--tokens", 6000, "--ctx", 64, "--json", *options).stdout)
    return done, {line["model"]: line["ppl"] for line in done["report"]}


def test_a_student_of_a_domain_beats_the_general_one_there(trained, tmp_path):
    _, general = split_trained(trained, tmp_path / "general", "--width", 32)
    done, each = split_trained(trained, tmp_path / "each", "--width", 32, "--students", 2)
    assert each["student-0"]["sums.jsonl"] < general["fit"]["sums.jsonl"] and each["student-1"]["words.jsonl"] < general["fit"]["words.jsonl"]
    assert each["student-0"]["sums.jsonl"] < each["student-1"]["sums.jsonl"] and each["student-1"]["words.jsonl"] < each["student-0"]["words.jsonl"]
    students = [tensors_of(tmp_path / f"each/student-{i}") for i in range(2)]
    assert [m["out"] for m in done["models"]] == [str(tmp_path / f"each/student-{i}") for i in range(2)]
    for name in students[0]:
        assert torch.equal(students[0][name], students[1][name]) != (".mlp." in name), "they share attention"
    assert json.loads((tmp_path / "each/report.json").read_text()) == done["report"] and "student-1" in (tmp_path / "each/README.md").read_text()


def test_students_of_kinds_of_text_are_each_best_at_their_own(trained, tmp_path):
    (trained / "both.jsonl").write_text((trained / "sums.jsonl").read_text() + (trained / "words.jsonl").read_text())
    done = json.loads(run("split", trained / "moe", tmp_path / "kinds", "--data", trained / "both.jsonl", "--tokens", 6000, "--ctx", 64, "--width", 32, "--students", 2, "--json").stdout)
    ppl = {line["model"]: line["ppl"] for line in done["report"]}
    assert set(ppl["mixture"]) == {"both.jsonl", "kind 0", "kind 1"}
    for kind in range(2):
        assert ppl[f"student-{kind}"][f"kind {kind}"] < ppl[f"student-{1 - kind}"][f"kind {kind}"]


def test_healing_brings_a_student_nearer_to_the_mixture(trained, tmp_path):
    done, ppl = split_trained(trained, tmp_path / "dense", "--width", 32, "--heal", 40)
    for text, mixture in ppl["mixture"].items():
        assert mixture < ppl["fit, healed"][text] < ppl["fit"][text]
    assert done["models"][0]["heal"]["steps"] == 40 and not (tmp_path / "dense.unhealed").exists() and not (tmp_path / "dense.training").exists()
    card = (tmp_path / "dense/README.md").read_text()
    assert "## Healed" in card and "## Report" in card and "fit, healed" in card
    assert (our_logits(tmp_path / "dense", IDS[:1], tmp_path) - logits_of(tmp_path / "dense")[:1]).abs().max() < 1e-3

    (tmp_path / "heal.yml").write_text("steps: 30\ntrainable: lora\nlora: {rank: 4}\nlr: 4.0e-3\n")
    _, lora = split_trained(trained, tmp_path / "lora", "--width", 32, "--heal", tmp_path / "heal.yml")
    assert all(lora["fit, healed"][text] < lora["fit"][text] for text in lora["mixture"])


def test_an_interrupted_healing_leaves_no_model_and_goes_on(trained, tmp_path):
    data = ["--data", trained / "sums.jsonl", "--tokens", 3000, "--ctx", 64, "--width", 32, "--heal", 150, "--no-report"]
    run("split", trained / "moe", tmp_path / "whole", *data)
    process = subprocess.Popen([BINARY, "split", *map(str, [trained / "moe", tmp_path / "cut", *data])], stderr=subprocess.DEVNULL)
    metrics = tmp_path / "cut.training/metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 20):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and not (tmp_path / "cut").exists()
    again = run("split", trained / "moe", tmp_path / "cut", *data, check=False)
    assert again.returncode == 2 and not (tmp_path / "cut").exists(), again.stderr
    run("split", trained / "moe", tmp_path / "cut", *data, "--resume")
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert not (tmp_path / "cut.unhealed").exists() and not (tmp_path / "cut.training").exists()


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
    (["--expert", 1, "--heal", 10], 2, "--heal needs --data"),
    (["--data", "text.txt", "--heal", "ten"], 2, "neither a number of steps nor a file"),
    (["--data", "text.txt", "--heal", "heal.yml"], 2, "heal.yml:2: `data` is not for a recipe of --heal"),
    (["--data", "text.txt", "--method", "concat", "--students", 2], 2, "--students goes with --method fit"),
])
def test_refusals_say_what_is_wrong(options, status, message, tmp_path):
    moe, _ = moe_with_tokenizer("mixtral", tmp_path)
    (tmp_path / "short.txt").write_text("a b")
    (tmp_path / "e.json").write_text("[1, 2]")
    (tmp_path / "bad.json").write_text("[1, 9, 2]")
    (tmp_path / "heal.yml").write_text("steps: 3\ndata: other.txt\n")
    options = [tmp_path / o if isinstance(o, str) and o.endswith((".txt", ".json", ".yml")) else o for o in options]
    failed = run("split", moe, tmp_path / "dense", *options, check=False)
    assert failed.returncode == status and message in failed.stderr, failed.stderr
    assert not (tmp_path / "dense").exists()


def test_a_dense_model_is_refused(tmp_path):
    save_variant("llama", tmp_path / "m", seed=0)
    failed = run("split", tmp_path / "m", tmp_path / "dense", "--all", check=False)
    assert failed.returncode != 0 and "no experts" in failed.stderr
