"""`mixwright zip --budget loss`: layers keep what the loss needs of them, and all of them together what was asked for."""

import json
import signal
import subprocess
import time

import pytest
import torch
from calibration_text import save_text, save_tokenizer
from tiny_models import BINARY, VARIANTS, make_model, run, save_variant

torch.set_num_threads(1)
LOUD = 1  # the layer of `loud` that says five times as much as the others


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("budget")
    save_text(path / "text.txt", 400)
    for family in ["qwen3_moe", "qwen2_moe-sparse", "deepseek_v3"]:
        save_variant(family, path / family)
        save_tokenizer(path / family)
    loud = make_model(*VARIANTS["qwen3_moe"])
    with torch.no_grad():
        loud.model.layers[LOUD].mlp.experts.down_proj *= 5
    loud.save_pretrained(path / "loud")
    save_tokenizer(path / "loud")
    return path


def command(place, model, out, *options):
    return ["zip", place / model, out, "--data", place / "text.txt", "--tokens", "3000", "--ctx", "64", "--threads", "1", "--json", "--format", "zipped", "--budget", "loss", *options]


def zipped(place, model, out, *options):
    return json.loads(run(*command(place, model, out, *options)).stdout)


def block_share(report):
    """Of all experts' bytes: eight of the 48 neurons of one expert."""
    return 8 / 48 / sum(len(layer["tokens"]) for layer in report["layers"])


@pytest.mark.parametrize("model", ["qwen3_moe", "qwen2_moe-sparse", "deepseek_v3"])
@pytest.mark.parametrize("method", ["neuron", "typed"])
def test_all_layers_together_keep_what_was_asked_for(place, model, method, tmp_path):
    for keep in (0.34, 0.5):
        report = zipped(place, model, tmp_path / f"{keep}", "--keep", keep, "--method", method)
        assert report["budget"] == "loss" and report["kept_expert_bytes"] <= keep + 1e-9
        if method == "neuron":
            assert report["kept_expert_bytes"] > keep - block_share(report)
        mean = sum(layer["kept"] for layer in report["layers"]) / len(report["layers"])
        assert mean == pytest.approx(report["kept_expert_bytes"])
    assert "zipped_" in json.loads((tmp_path / "0.5/config.json").read_text())["model_type"]
    assert json.loads((tmp_path / "0.5/zip_report.json").read_text())["budget"] == "loss"
    assert "| layer | experts alike | experts' bytes kept |" in (tmp_path / "0.5/README.md").read_text()
    assert not list(tmp_path.glob("*.layers"))


@pytest.mark.parametrize("sequential", ["on", "off"])
def test_a_layer_whose_output_is_larger_keeps_more(place, sequential, tmp_path):
    kept = {model: zipped(place, model, tmp_path / model, "--keep", 0.5, "--method", "neuron", "--sequential", sequential)["layers"][LOUD]["kept"] for model in ("loud", "qwen3_moe")}
    assert kept["loud"] > kept["qwen3_moe"] + 0.1
    run("inspect", tmp_path / "loud", "--verify")


def test_keeping_all_keeps_all(place, tmp_path):
    report = zipped(place, "loud", tmp_path / "out", "--keep", 1)
    assert all(layer["kept"] == 1 and layer["note"] == "all kept" for layer in report["layers"])


def test_resuming_gives_the_bytes_of_an_uninterrupted_run(place, tmp_path):
    options = ("--keep", "0.5", "--method", "neuron")
    journal = tmp_path / "cut.layers/journal"
    process = subprocess.Popen([BINARY, *map(str, command(place, "loud", tmp_path / "cut", *options))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and b"shares" in journal.read_bytes()):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.wait()
    if process.returncode != 0:
        assert process.returncode == 130 and not (tmp_path / "cut").exists()
        zipped(place, "loud", tmp_path / "cut", *options, "--resume")
    zipped(place, "loud", tmp_path / "whole", *options)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (tmp_path / "cut.layers").exists()


def test_another_budget_starts_again(place, tmp_path):
    """A run may not go on from layers that were made with other shares."""
    uniform = [option for option in command(place, "loud", tmp_path / "out", "--keep", "0.5", "--method", "neuron") if option not in ("--budget", "loss")]
    process = subprocess.Popen([BINARY, *map(str, uniform)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "out.layers/journal"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.wait()
    if process.returncode == 0:
        pytest.skip("it was done before it could be interrupted")
    done = run(*command(place, "loud", tmp_path / "out", "--keep", "0.5", "--method", "neuron", "--resume"))
    assert "starting again" in done.stderr and len({layer["kept"] for layer in json.loads(done.stdout)["layers"]}) > 1


@pytest.mark.parametrize("options,code,words", [
    (["--format", "standard"], 2, "no config of --format standard can say"),
    (["--format", "zipped", "--method", "reap"], 2, "goes with --method typed and neuron"),
    (["--format", "zipped", "--budget", "fair"], 2, "--budget"),
])
def test_what_cannot_be_done_is_refused_and_leaves_nothing(place, options, code, words, tmp_path):
    budget = [] if "--budget" in options else ["--budget", "loss"]
    done = run("zip", place / "qwen3_moe", tmp_path / "out", "--data", place / "text.txt", "--tokens", 1000, "--ctx", 64, *budget, *options, check=False)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
