"""`mixwright zip --heal`: the routers of what was made learn from the original, and nothing else changes."""

import json
import signal
import subprocess
import time

import pytest
import torch
from calibration_text import save_text, save_tokenizer
from safetensors.torch import load_file
from tiny_models import BINARY, our_logits, run, save_variant
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
FAMILIES = ["mixtral", "qwen2_moe", "deepseek_v3"]
IDS = torch.randint(3, 320, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("heal")
    save_text(path / "text.txt", 600)
    for family in FAMILIES:
        save_variant(family, path / family)
        save_tokenizer(path / family)
    (path / "experts.yml").write_text("steps: 3\ntrainable: experts\nlr: 1.0e-3\n")
    (path / "other.yml").write_text("steps: 3\ndata: other.txt\n")
    return path


def command(place, family, out, *options, keep=0.5):
    return ["zip", place / family, out, "--data", place / "text.txt", "--tokens", "3000", "--ctx", "64", "--keep", keep, "--threads", "1", "--json", *options]


def zipped(place, family, out, *options, keep=0.5):
    return json.loads(run(*command(place, family, out, *options, keep=keep)).stdout)


def tensors_of(directory):
    return {name: value for file in sorted(directory.glob("*.safetensors")) for name, value in load_file(file).items()}


def is_router(name):
    return name.endswith((".mlp.gate.weight", ".block_sparse_moe.gate.weight", ".shared_expert_gate.weight"))


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("family,options", [("mixtral", ["--method", "frequency"]), ("qwen2_moe", ["--method", "reap"]), ("deepseek_v3", ["--method", "neuron"]),
                                            ("qwen2_moe", ["--method", "typed", "--format", "zipped"])])
def test_routers_learn_and_nothing_else_changes(place, family, options, tmp_path):
    keep = 0.75 if family == "mixtral" else 0.5
    zipped(place, family, tmp_path / "plain", *options, keep=keep)
    report = zipped(place, family, tmp_path / "healed", *options, "--heal", 60, keep=keep)
    before, after = tensors_of(tmp_path / "plain"), tensors_of(tmp_path / "healed")
    assert changed(before, after) == {name for name in before if is_router(name)}
    assert all(before[name].dtype == after[name].dtype for name in before)
    for file in ("config.json", "zip_report.json", "tokenizer.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "healed" / file).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "healed/train_metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert report["heal"]["steps"] == len(losses) == 60
    if "reap" in options:  # where the experts are all there, routers have little to learn
        assert sum(losses[-10:]) < sum(losses[:10])
    assert report["bytes"] == sum(f.stat().st_size for f in (tmp_path / "healed").iterdir())
    card = (tmp_path / "healed/README.md").read_text()
    assert card.startswith((tmp_path / "plain/README.md").read_text().replace("# plain", "# healed")) and "## Healed" in card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["healed", "plain"]
    if "--format" not in options:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "healed", dtype=torch.float32).eval()
        with torch.no_grad():
            assert (our_logits(tmp_path / "healed", IDS.tolist(), tmp_path) - model(IDS).logits).abs().max() < 1e-4


def test_a_recipe_says_what_learns(place, tmp_path):
    zipped(place, "qwen2_moe", tmp_path / "plain", "--method", "reap")
    zipped(place, "qwen2_moe", tmp_path / "healed", "--method", "reap", "--heal", place / "experts.yml", "--no-card")
    assert not (tmp_path / "healed/README.md").exists()
    names = changed(tensors_of(tmp_path / "plain"), tensors_of(tmp_path / "healed"))
    assert names and all("expert" in name and not is_router(name) for name in names)


def interrupt(arguments, reached):
    process = subprocess.Popen([BINARY, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not reached():
        assert process.poll() is None, "over before it could be interrupted"
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_an_interrupted_healing_leaves_no_model_and_goes_on(place, tmp_path):
    options = ("--method", "reap", "--heal", "150")
    metrics = tmp_path / "cut.training/metrics.jsonl"
    interrupt(command(place, "qwen2_moe", tmp_path / "cut", *options), lambda: metrics.exists() and metrics.read_text().count("\n") > 20)
    assert not (tmp_path / "cut").exists() and (tmp_path / "cut.unhealed/config.json").exists()
    again = run(*command(place, "qwen2_moe", tmp_path / "cut", *options), check=False)
    assert again.returncode == 2 and "cut.unhealed" in again.stderr, again.stderr
    zipped(place, "qwen2_moe", tmp_path / "cut", *options, "--resume")
    zipped(place, "qwen2_moe", tmp_path / "whole", *options)
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert json.loads((tmp_path / "cut/zip_report.json").read_text()) == json.loads((tmp_path / "whole/zip_report.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "whole"]


def test_the_healing_of_another_choice_of_experts_does_not_go_on(place, tmp_path):
    metrics = tmp_path / "out.training/metrics.jsonl"
    interrupt(command(place, "qwen2_moe", tmp_path / "out", "--method", "reap", "--heal", "150"), lambda: metrics.exists() and metrics.read_text().count("\n") > 5)
    refused = run(*command(place, "qwen2_moe", tmp_path / "out", "--method", "frequency", "--heal", "20", "--resume"), check=False)
    assert refused.returncode != 0 and "had another recipe, model or data" in refused.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("options,words", [
    (["--heal", "ten"], "neither a number of steps nor a file"),
    (["--heal", "0"], "at least one step"),
    (["--heal", "other.yml"], "`data` is not for a recipe of --heal"),
])
def test_what_cannot_be_done_is_refused_before_the_work(place, options, words, tmp_path):
    done = run(*command(place, "qwen2_moe", tmp_path / "out", *[place / o if o.endswith(".yml") else o for o in options]), check=False)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
