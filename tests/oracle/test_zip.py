"""`mixwright zip`: what it writes loads in transformers with our logits, least squares does what it promises, and bad input
leaves nothing behind."""

import json
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch
from calibration_text import save_text, save_tokenizer
from safetensors.torch import load_file, save_file
from tiny_models import BINARY, our_logits, run, save_variant
from transformers import AutoModelForCausalLM

FAMILIES = ["mixtral", "qwen2_moe", "qwen2_moe-sparse", "qwen3_moe"]
FEWER = ["reap", "frequency", "random", "average", "zipit", "hc-smoe", "mergemoe", "ream"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("zip")
    save_text(path / "text.txt", 400)
    for family in FAMILIES + ["llama"]:
        save_variant(family, path / family)
        save_tokenizer(path / family)
    return path


def zipped(place, family, out, *options, tokens=3000):
    done = run("zip", place / family, out, "--data", place / "text.txt", "--tokens", tokens, "--ctx", 64, "--threads", 1, "--json", *options)
    return json.loads(done.stdout)


def tensors_of(directory):
    return {name: value for file in sorted(directory.glob("*.safetensors")) for name, value in load_file(file).items()}


def expect_transformers_agrees(directory, tmp_path):
    ids = torch.randint(3, 320, (2, 40), generator=torch.Generator().manual_seed(1))
    model, report = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        expected = model.eval()(ids).logits
    assert (our_logits(directory, ids.tolist(), tmp_path) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_all_changes_nothing(place, family, tmp_path):
    zipped(place, family, tmp_path / "out", "--keep", 1)
    before, after = tensors_of(place / family), tensors_of(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    original = AutoModelForCausalLM.from_pretrained(place / family, dtype=torch.float32).eval()
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, original(ids).logits)
    assert sum(t.numel() for t in before.values()) == sum(t.numel() for t in after.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_narrower_experts_load_in_transformers(place, family, tmp_path):
    result = zipped(place, family, tmp_path / "out", "--keep", 0.5)
    assert result["kept_expert_bytes"] == pytest.approx(0.5, abs=0.1)
    assert result["bytes"] == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    expect_transformers_agrees(tmp_path / "out", tmp_path)
    before, after = tensors_of(place / family), tensors_of(tmp_path / "out")
    untouched = [n for n in after if "expert" not in n]
    assert any("gate.weight" in n for n in untouched), "routers are looked at"
    assert all(torch.equal(after[n], before[n]) for n in untouched), "gates, attention, norms and embeddings stay bit for bit"
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nbase_model:")
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("method", FEWER)
def test_fewer_experts_load_in_transformers(place, method, tmp_path):
    for refit in ["none", "ls"]:
        result = zipped(place, "qwen2_moe", tmp_path / refit, "--keep", 0.5, "--method", method, "--refit", refit)
        config = json.loads((tmp_path / refit / "config.json").read_text())
        assert config["num_experts"] == 3
        assert result["parameters"] == sum(t.numel() for t in tensors_of(tmp_path / refit).values())
        expect_transformers_agrees(tmp_path / refit, tmp_path)


@pytest.mark.parametrize("method", ["typed", "neuron", "heapr", *FEWER])
def test_least_squares_never_loses_on_the_text_it_saw(place, method, tmp_path):
    layers = {refit: zipped(place, "qwen2_moe", tmp_path / refit, "--keep", 0.5, "--method", method, "--refit", refit, "--sequential", "off")["layers"]
              for refit in ["none", "ls"]}
    for plain, fitted in zip(layers["none"], layers["ls"], strict=True):
        assert fitted["fitted_error"] <= plain["fitted_error"] * (1 + 1e-6)


def test_the_more_is_kept_the_smaller_the_error(place, tmp_path):
    errors = []
    for keep in [0.25, 0.5, 0.75]:
        layers = zipped(place, "qwen3_moe", tmp_path / str(keep), "--keep", keep, "--sequential", "off", tokens=6000)["layers"]
        errors.append([layer["fitted_error"] for layer in layers])
    for few, more in zip(errors, errors[1:]):
        assert all(b < a for a, b in zip(few, more))


def test_every_run_gives_the_same_bytes(place, tmp_path):
    for out in ["a", "b"]:
        zipped(place, "qwen3_moe", tmp_path / out)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_resuming_gives_the_bytes_of_an_uninterrupted_run(place, tmp_path):
    command = ["zip", place / "qwen3_moe", tmp_path / "out", "--data", place / "text.txt", "--tokens", "6000", "--ctx", "64", "--threads", "1", "--json"]
    process = subprocess.Popen([BINARY, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "out.layers" / "journal"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    process.wait()
    if process.returncode != 0:
        assert process.returncode == 130 and not (tmp_path / "out").exists()
        run(*command, "--resume")
    zipped(place, "qwen3_moe", tmp_path / "whole", tokens=6000)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not (tmp_path / "out.layers").exists()


def test_an_expert_without_tokens_stays_near_what_it_was(place, tmp_path):
    """Two sequences of text cannot reach every expert."""
    save_text(tmp_path / "short.txt", 6)
    done = run("zip", place / "qwen3_moe", tmp_path / "out", "--data", tmp_path / "short.txt", "--ctx", 16, "--keep", 0.5, "--threads", 1)
    assert "fewer tokens than they have neurons" in done.stderr
    assert all(t.isfinite().all() for t in tensors_of(tmp_path / "out").values())


def test_experts_that_are_alike_are_told_of(place, tmp_path):
    shutil.copytree(place / "mixtral", tmp_path / "alike")
    (file,) = (tmp_path / "alike").glob("*.safetensors")
    tensors = load_file(file)
    for name in tensors:
        tensors[name] = tensors[re.sub(r"experts\.\d+\.", "experts.0.", name)].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    for model, energy, told in ((place / "mixtral", 0.25, False), (tmp_path / "alike", 1, True)):
        done = run("zip", model, tmp_path / "out", "--data", place / "text.txt", "--tokens", 3000, "--ctx", 64, "--force", "--json")
        assert all(layer["shared_mean_energy"] == pytest.approx(energy, abs=0.02) for layer in json.loads(done.stdout)["layers"])
        assert ("still copies of one" in done.stderr) == told


@pytest.mark.parametrize("family,options,code,words", [
    ("llama", [], 3, "no experts"),
    ("qwen2_moe", ["--method", "reap", "--keep", "0.2"], 2, "fewer than the 2"),
    ("qwen2_moe", ["--method", "zap"], 2, "no such method"),
    ("qwen2_moe", ["--method", "reap", "--format", "zipped"], 2, "goes with --method typed and neuron"),
    ("qwen2_moe", ["--keep", "0"], 2, "keep"),
    ("qwen2_moe", ["--report", "nowhere/page.html"], 2, "no folder"),
    ("qwen2_moe", ["--data", "nowhere.txt"], 3, "nowhere.txt"),
])
def test_what_cannot_be_done_is_refused_and_leaves_nothing(place, family, options, code, words, tmp_path):
    done = run("zip", place / family, tmp_path / "out", "--data", place / "text.txt", "--tokens", 1000, "--ctx", 64, *options, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_too_little_text_and_broken_weights_are_refused(place, tmp_path):
    save_text(tmp_path / "word.txt", 1).write_text("one")
    done = run("zip", place / "qwen3_moe", tmp_path / "out", "--data", tmp_path / "word.txt", check=False)
    assert done.returncode == 3 and "tokens of text" in done.stderr
    model = save_variant("qwen3_moe", tmp_path / "broken")
    save_tokenizer(tmp_path / "broken")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    done = run("zip", tmp_path / "broken", tmp_path / "out", "--data", place / "text.txt", "--tokens", 1000, "--ctx", 64, check=False)
    assert done.returncode == 1 and "not finite" in done.stderr
    assert not (tmp_path / "out").exists()
