"""`mixwright zip --format zipped`: experts of unequal widths that may share rows. What it writes runs in transformers with our
logits and through every verb; broken layouts are refused."""

import json

import pytest
import torch
from calibration_text import save_text, save_tokenizer
from safetensors.torch import load_file, save_file
from tiny_models import VARIANTS, make_model, our_logits, run, save_variant
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
FAMILIES = ["mixtral", "phimoe", "qwen2_moe-sparse", "qwen3_moe", "olmoe", "deepseek_v2-groups", "deepseek_v3", "glm4_moe-raw"]
IDS = torch.randint(3, 320, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def own_module_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("zipped")
    save_text(path / "text.txt", 400)
    for family in FAMILIES:
        save_variant(family, path / family)
        save_tokenizer(path / family)
    # Odd experts have the neurons of the even ones, and down projections of their own.
    alike = make_model(*VARIANTS["qwen3_moe"])
    with torch.no_grad():
        for layer in alike.model.layers:
            layer.mlp.experts.gate_up_proj[1::2] = layer.mlp.experts.gate_up_proj[::2]
    alike.save_pretrained(path / "alike")
    save_tokenizer(path / "alike")
    return path


def zipped(place, family, out, *options, tokens=3000):
    method = [] if "--method" in options else ["--method", "typed"]
    done = run("zip", place / family, out, "--data", place / "text.txt", "--tokens", tokens, "--ctx", 64, "--threads", 1, "--json", "--format", "zipped", *method, *options)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shared(place):
    """A zipped model whose experts share much."""
    report = zipped(place, "alike", place / "shared", "--keep", 0.6, "--group", "similarity")
    assert max(layer["typed"]["shared"] for layer in report["layers"]) > 0.05
    return place / "shared"


def config_of(directory):
    return json.loads((directory / "config.json").read_text())


def tensors_of(directory):
    return {name: value for file in sorted(directory.glob("*.safetensors")) for name, value in load_file(file).items()}


def their_logits(directory, ids=IDS):
    model, info = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        return model.eval()(ids).logits


def windows(directory):
    """(layer, group's rows, [group, first, width] of each expert)"""
    return [(i, layer["rows"], layer["experts"]) for i, layer in enumerate(config_of(directory)["zipped_experts"]) if layer]


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_in_transformers(place, family, tmp_path):
    report = zipped(place, family, tmp_path / f"out-{family}", "--keep", 0.5)
    out = tmp_path / f"out-{family}"
    expected = their_logits(out)
    assert (our_logits(out, IDS.tolist(), tmp_path) - expected).abs().max() < 1e-4 * max(1, expected.abs().max())
    assert report["bytes"] == sum(f.stat().st_size for f in out.iterdir())
    assert report["parameters"] == sum(t.numel() for t in tensors_of(out).values())
    assert report["kept_expert_bytes"] <= 0.5
    before = tensors_of(place / family)
    for name, tensor in tensors_of(out).items():
        if ".experts." not in name and "down_proj" not in name:  # the refit of a block has the shared expert's down projection too
            assert torch.equal(tensor, before[name]), "routers, attention, norms and rows of shared experts stay bit for bit"


def test_sharing_is_seen_in_the_files_and_runs_everywhere(place, shared, tmp_path):
    tensors = tensors_of(shared)
    overlaps = 0
    for layer, rows, experts in windows(shared):
        for group, count in enumerate(rows):
            assert tensors[f"model.layers.{layer}.mlp.experts.groups.{group}.gate_proj.weight"].shape[0] == count
            members = [(first, first + width) for g, first, width in experts if g == group]
            assert max(end for _, end in members) == count and min(first for first, _ in members) == 0
            overlaps += len(members) == 2 and members[0][1] > members[1][0] and members[1][1] > members[0][0]
        for e, (_, _, width) in enumerate(experts):
            assert tensors[f"model.layers.{layer}.mlp.experts.{e}.down_proj.weight"].shape[1] == width
    assert overlaps > 0
    expected = their_logits(shared)
    assert (our_logits(shared, IDS.tolist(), tmp_path) - expected).abs().max() < 1e-4
    assert (our_logits(shared, IDS[:1, :3].tolist(), tmp_path) - their_logits(shared, IDS[:1, :3])).abs().max() < 1e-4  # few tokens: the kernels of decoding
    narrow = our_logits(shared, IDS.tolist(), tmp_path, "--dtype", "bfloat16")  # a token here and there goes to another expert
    assert ((narrow - expected).flatten(0, 1).norm(dim=-1) / expected.flatten(0, 1).norm(dim=-1)).median() < 0.03


def test_a_model_of_one_width_with_copies_of_the_rows_gives_the_same_logits(place, shared, tmp_path):
    """Each window padded with neurons that do nothing: the standard form of the same choice."""
    config, tensors, widest = config_of(shared), tensors_of(shared), config_of(place / "alike")["moe_intermediate_size"]
    for layer, _, experts in windows(shared):
        prefix = f"model.layers.{layer}.mlp.experts."
        for e, (group, first, width) in enumerate(experts):
            for part in ("gate_proj", "up_proj"):
                rows = tensors[f"{prefix}groups.{group}.{part}.weight"][first:first + width]
                tensors[f"{prefix}{e}.{part}.weight"] = torch.cat([rows, torch.zeros(widest - width, rows.shape[1])])
            down = tensors[f"{prefix}{e}.down_proj.weight"]
            tensors[f"{prefix}{e}.down_proj.weight"] = torch.cat([down, torch.zeros(down.shape[0], widest - width)], 1)
    standard = tmp_path / "standard"
    standard.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items() if ".groups." not in n}, standard / "model.safetensors")
    config = {k: v for k, v in config.items() if k not in ("zipped_experts", "auto_map")} | {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
    (standard / "config.json").write_text(json.dumps(config))
    assert (our_logits(standard, IDS.tolist(), tmp_path) - our_logits(shared, IDS.tolist(), tmp_path)).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["typed", "neuron"])
def test_keeping_all_changes_nothing(place, method, tmp_path):
    zipped(place, "qwen3_moe", tmp_path / "all", "--keep", 1, "--method", method)
    assert (our_logits(tmp_path / "all", IDS.tolist(), tmp_path) - our_logits(place / "qwen3_moe", IDS.tolist(), tmp_path)).abs().max() < 1e-6


def test_alike_experts_lose_less_when_they_share(place, shared, tmp_path):
    options = ("--keep", 0.6, "--group", "similarity", "--sequential", "off")
    typed, alone = (zipped(place, "alike", tmp_path / m, "--method", m, *options)["layers"] for m in ("typed", "neuron"))
    assert sum(layer["fitted_error"] for layer in typed) < sum(layer["fitted_error"] for layer in alone)
    assert all(layer["typed"]["shared"] == 0 for layer in alone)


def test_least_squares_never_loses_and_more_is_better(place, tmp_path):
    errors = []
    for keep in (0.34, 0.5, 0.75):
        fitted, plain = (zipped(place, "qwen3_moe", tmp_path / f"{keep}{refit}", "--keep", keep, "--sequential", "off", "--refit", refit, tokens=6000)["layers"]
                         for refit in ("ls", "none"))
        assert all(f["fitted_error"] <= p["fitted_error"] * (1 + 1e-6) for f, p in zip(fitted, plain, strict=True))
        errors.append([layer["fitted_error"] for layer in fitted])
    assert all(b < a for few, more in zip(errors, errors[1:]) for a, b in zip(few, more))


def test_every_verb_takes_it(place, shared, tmp_path):
    run("generate", shared, "-p", "The sum of", "-n", 8, "--threads", 1)
    for quant in ("int8", "int4"):
        run("generate", shared, "-p", "The sum of", "-n", 4, "--quant", quant, "--threads", 1)
    result = json.loads(run("eval", shared, "--task", f"ppl:{place / 'text.txt'}", "--ctx", 64, "--limit", 500, "--json").stdout)
    streamed = json.loads(run("eval", shared, "--task", f"ppl:{place / 'text.txt'}", "--ctx", 64, "--limit", 500, "--json", "--stream-layers").stdout)
    assert [t["nll"] for t in result["tasks"].values()] == pytest.approx([t["nll"] for t in streamed["tasks"].values()], rel=1e-6)
    run("profile", shared, "--data", place / "text.txt", "--tokens", 500, "--ctx", 64, "-o", tmp_path / "stats.safetensors", "--report", tmp_path / "page.html")
    seen = json.loads(run("inspect", shared, "--json", "--verify").stdout)
    assert seen["usable"] and seen["model"]["model_type"] == "zipped_qwen3_moe"
    assert all(problem["what"].startswith("config.json asks for code") for problem in seen["problems"])
    run("bench", shared, "-p", 8, "-n", 4, "-b", 1, "-r", 1)


@pytest.mark.parametrize("trainable", ["experts", "all", "lora"])
def test_training_keeps_shared_rows_shared(place, shared, trainable, tmp_path):
    recipe = dict(model=str(shared), data=str(place / "text.txt"), steps=3, batch_size=2, seq_len=32, lr=1e-2, trainable=trainable, dtype="float32")
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe | ({"lora": {"rank": 4}} if trainable == "lora" else {})))
    run("train", tmp_path / "recipe.yml", tmp_path / f"trained-{trainable}", "--threads", 1)
    before, after = tensors_of(shared), tensors_of(tmp_path / f"trained-{trainable}")
    assert before.keys() == after.keys()
    moved = [n for n in before if not torch.equal(before[n], after[n].to(before[n].dtype))]
    assert any(".groups." in n for n in moved) and any("down_proj" in n for n in moved)
    assert (our_logits(tmp_path / f"trained-{trainable}", IDS.tolist(), tmp_path) - their_logits(tmp_path / f"trained-{trainable}")).abs().max() < 1e-4


def test_split_gives_an_expert_back_with_its_error(place, shared, tmp_path):
    done = run("split", shared, tmp_path / "expert", "--expert", 2, "--json")
    assert "Zipping left an error of" in done.stderr and "Zipping left" in (tmp_path / "expert/README.md").read_text()
    result = json.loads(done.stdout)["models"][0]
    report = json.loads((shared / "zip_report.json").read_text())
    assert result["recovery_error"] == pytest.approx([layer["recovered"][2] for layer in report["layers"]])
    run("split", place / "alike", tmp_path / "source", "--expert", 2)
    mine, theirs = tensors_of(tmp_path / "expert"), tensors_of(tmp_path / "source")
    width = mine["model.layers.0.mlp.gate_proj.weight"].shape[0]
    assert width == max(w[2][2][2] for w in windows(shared)), "as wide as the widest of its windows, the others filled with zeros"
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(2))
    for layer, _, experts in windows(shared):
        names = [f"model.layers.{layer}.mlp.{part}.weight" for part in ("gate_proj", "up_proj", "down_proj")]
        approximate, exact = (torch.nn.functional.silu(x @ t[names[0]].T) * (x @ t[names[1]].T) @ t[names[2]].T for t in (mine, theirs))
        assert (approximate - exact).square().sum() < exact.square().sum(), "nearer to the source than nothing is"
    # A model of one width tells it too.
    run("zip", place / "alike", tmp_path / "narrow", "--data", place / "text.txt", "--tokens", 2000, "--ctx", 64, "--keep", 0.5)
    assert len(json.loads(run("split", tmp_path / "narrow", tmp_path / "of-narrow", "--expert", 0, "--json").stdout)["models"][0]["recovery_error"]) == 3


@pytest.mark.parametrize("options", [["--all"], ["--method", "routed", "--data"], ["--method", "concat", "--data"], ["--method", "fit", "--data"]])
def test_other_splits_take_it_as_it_is(place, shared, options, tmp_path):
    data = [place / "text.txt", "--tokens", 1000, "--ctx", 64] if options[-1] == "--data" else []
    run("split", shared, tmp_path / "dense", *options, *data)
    for config in tmp_path.glob("dense/**/config.json"):
        assert json.loads(config.read_text())["model_type"] == "qwen3"
        our_logits(config.parent, IDS.tolist(), tmp_path)


def test_standard_form_of_typed_loads_unchanged(place, tmp_path):
    for family in ["alike", "deepseek_v2-groups"]:
        run("zip", place / family, tmp_path / family, "--data", place / "text.txt", "--tokens", 3000, "--ctx", 64, "--keep", 0.5, "--method", "typed", "--group", "similarity")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / family, dtype=torch.float32).eval()
        with torch.no_grad():
            assert (our_logits(tmp_path / family, IDS.tolist(), tmp_path) - model(IDS).logits).abs().max() < 1e-4


def test_resumed_and_repeated_runs_give_the_same_bytes(place, tmp_path):
    for out in ("a", "b"):
        zipped(place, "alike", tmp_path / out, "--keep", 0.6, "--group", "similarity")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def broken(shared, tmp_path, change):
    directory = tmp_path / "broken"
    directory.mkdir()
    for file in shared.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    config = config_of(shared)
    change(config["zipped_experts"])
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("change,words", [
    (lambda layers: layers[1]["experts"].__setitem__(3, [layers[1]["experts"][3][0], 1 << 15, 8]), "layer 1: experts: expert 3 reads rows 32768 to 32776"),
    (lambda layers: layers[0]["rows"].__setitem__(0, layers[0]["rows"][0] + 8), "do not fit its config.json"),
    (lambda layers: layers[0]["experts"][0].__setitem__(2, 8), "do not fit its config.json"),
    (lambda layers: layers.pop(), "an entry for each of the 3 layers"),
    (lambda layers: layers[2].clear(), "layer 2: rows: expected a list"),
])
def test_broken_layouts_are_refused(shared, change, words, tmp_path):
    (tmp_path / "ids.json").write_text("[[3, 4]]")
    done = run("logits", broken(shared, tmp_path, change), "--ids", tmp_path / "ids.json", "-o", tmp_path / "logits", check=False)
    assert done.returncode == 3 and words in done.stderr, done.stderr


@pytest.mark.parametrize("arguments,code,words", [
    (["zip", "SHARED", "OUT", "--data", "TEXT"], 3, "zipped already"),
    (["zip", "MODEL", "OUT", "--data", "TEXT", "--format", "zipped", "--method", "reap"], 2, "goes with --method typed and neuron"),
    (["zip", "MODEL", "OUT", "--data", "TEXT", "--format", "zipped", "--method", "typed", "--group-size", "3"], 2, "pairs"),
    (["chain", "SHARED", "OUT"], 3, "a zipped model is not chained"),
    (["relayout", "SHARED", "OUT", "--layout", "fused"], 3, "one layout only"),
    (["split", "SHARED", "OUT", "--method", "mean"], 3, "several widths"),
])
def test_what_cannot_be_done_is_refused(place, shared, arguments, code, words, tmp_path):
    places = {"SHARED": shared, "MODEL": place / "qwen3_moe", "OUT": tmp_path / "out", "TEXT": place / "text.txt"}
    done = run(*[places.get(a, a) for a in arguments], check=False)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert not list(tmp_path.glob("out*"))


def test_text_that_reaches_few_experts_is_said_and_taken(place, tmp_path):
    save_text(tmp_path / "short.txt", 6)
    done = run("zip", place / "qwen3_moe", tmp_path / "out", "--data", tmp_path / "short.txt", "--ctx", 16, "--keep", 0.5, "--method", "typed", "--format", "zipped")
    assert "fewer tokens than they have neurons" in done.stderr
    assert {width for _, _, experts in windows(tmp_path / "out") for _, _, width in experts} == {24}, "the mean width where nothing is known"
    assert all(t.isfinite().all() for t in tensors_of(tmp_path / "out").values())
