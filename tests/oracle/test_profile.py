"""`mixwright profile` beside the routing of transformers."""

import json
import math
import re

import pytest
import torch
from calibration_text import save_text, save_tokenizer
from ranks import finish, start_ranks
from safetensors.torch import load_file, save_file
from tiny_models import run, save_variant

CTX = 32


def sequences(tokenizer, path, tokens):
    """The sequences profile cuts a text into: equal lengths, of at most so many tokens."""
    ids = tokenizer.encode(path.read_text()).ids + [tokenizer.token_to_id("<|end|>")]
    ids = ids[:tokens]
    length = max(8, min(len(ids) // 8, CTX))
    return torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe-sparse", "qwen3_moe"])
def test_counts_masses_and_coactivation_are_those_of_transformers(family, tmp_path):
    model = save_variant(family, tmp_path / "model")
    tokenizer = save_tokenizer(tmp_path / "model")
    texts = [save_text(tmp_path / "a.txt", 60), save_text(tmp_path / "b.txt", 80, seed=3)]
    done = run("profile", tmp_path / "model", "--data", texts[0], "--data", texts[1], "--tokens", 800, "--ctx", CTX, "-o", tmp_path / "s.safetensors", "--json")
    summary, stats = json.loads(done.stdout), load_file(tmp_path / "s.safetensors")
    assert json.loads(bytes(stats["summary.json"].tolist()))["tokens"] == summary["tokens"]
    assert [f["name"] for f in summary["files"]] == ["a.txt", "b.txt"]

    config = model.config
    experts, top_k = getattr(config, "num_experts", None) or config.num_local_experts, config.num_experts_per_tok
    layers = [layer["layer"] for layer in summary["layers"]]
    for s, path in enumerate(texts):
        ids = sequences(tokenizer, path, 800)
        assert ids.numel() == summary["files"][s]["tokens"]
        with torch.no_grad():
            all_logits = model(ids, output_router_logits=True).router_logits
        for layer, logits in zip(layers, [l for l in all_logits if l is not None], strict=True):
            probabilities = logits.float().softmax(-1)
            weights, chosen = probabilities.topk(top_k, -1)
            if family != "qwen2_moe-sparse":
                weights = weights / weights.sum(-1, keepdim=True)
            hot = torch.nn.functional.one_hot(chosen, experts)
            here = {name: stats[f"layers.{layer}.{name}"][s] for name in ["counts", "gate_mass", "coactivation", "entropy"]}
            # A near tie may fall either way.
            assert (here["counts"] - hot.sum((0, 1))).abs().max() <= 2
            assert (here["coactivation"] - hot.sum(1).T @ hot.sum(1)).abs().max() <= 3
            assert torch.allclose(here["gate_mass"], (hot * weights[..., None]).sum((0, 1)), atol=0.5)
            assert torch.allclose(here["entropy"], -(probabilities * probabilities.log()).sum(-1).mean(), atol=1e-3)
    for layer in layers:
        together = stats[f"layers.{layer}.coactivation"]
        assert torch.equal(together.diagonal(dim1=1, dim2=2), stats[f"layers.{layer}.counts"])
        assert torch.allclose(stats[f"layers.{layer}.output_similarity"].diagonal(), torch.ones(experts), atol=1e-4)


def test_figures_of_redundancy(tmp_path):
    """Unrelated random experts share 1/E of their energy; equal ones all of it, in one direction."""
    model = save_variant("qwen3_moe", tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    text = save_text(tmp_path / "a.txt", 60)

    def first_layer():
        return json.loads(run("profile", tmp_path / "model", "--data", text, "--ctx", CTX, "-o", tmp_path / "s.safetensors", "--json").stdout)["layers"][0]

    assert first_layer()["shared_mean_energy"] == pytest.approx(1 / 6, abs=0.03)
    assert first_layer()["rank90_share"] == 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.copy_(parameter[:1].expand_as(parameter))
    model.save_pretrained(tmp_path / "model")
    assert first_layer()["shared_mean_energy"] == pytest.approx(1, abs=1e-3)
    assert first_layer()["rank90_share"] == pytest.approx(1 / 6, abs=1e-3)


def drawn_on(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S).group(1))


def test_the_page_stands_on_its_own(tmp_path):
    save_variant("qwen3_moe", tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    text = save_text(tmp_path / "<b>.txt", 60)
    run("profile", tmp_path / "model", "--data", text, "--ctx", CTX, "-o", tmp_path / "s.safetensors", "--report", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"(src|href)\s*=|https?://|@import|fetch\(", page), "nothing comes from elsewhere"
    data = drawn_on(page)
    assert data["files"][0]["name"] == "<b>.txt" and len(data["layers"]) == 3
    assert page.count("<script") == 2 and page.rstrip().endswith("</html>")
    assert "prefers-color-scheme: dark" in page


def test_a_chained_layer_has_a_profile_for_each_iteration(tmp_path):
    save_variant("qwen2_moe", tmp_path / "source")
    tokenizer = save_tokenizer(tmp_path / "source")
    text = save_text(tmp_path / "a.txt", 60)
    run("chain", tmp_path / "source", tmp_path / "chained", "--iterations", 2, "--top-k", 2)
    config = json.loads((tmp_path / "chained/config.json").read_text())
    (tmp_path / "chained/config.json").write_text(json.dumps({**config, "inner_iter": [2, 1, 2]}))
    weights = load_file(tmp_path / "chained/model.safetensors")
    del weights["model.layers.1.mlp.gate.1.weight"]
    weights["model.layers.0.mlp.gate.1.weight"] *= 0
    save_file(weights, tmp_path / "chained/model.safetensors", metadata={"format": "pt"})

    def profile(model):
        done = run("profile", tmp_path / model, "--data", text, "--tokens", 800, "--ctx", CTX, "-o", tmp_path / "s.safetensors", "--report", tmp_path / "page.html", "--json")
        return json.loads(done.stdout)["layers"], load_file(tmp_path / "s.safetensors")

    _, plain = profile("source")
    layers, stats = profile("chained")
    assert [(layer["layer"], layer["iteration"]) for layer in layers] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    tokens = sequences(tokenizer, text, 800).numel()
    for name in ("layers.0.counts", "layers.0.iterations.1.counts", "layers.1.counts", "layers.2.iterations.1.counts"):
        assert stats[name].sum() == 2 * tokens
    assert (stats["layers.0.counts"] - plain["layers.0.counts"]).abs().max() <= 2, "the first iteration sees what the source's router sees"
    assert layers[1]["entropy"][0] == pytest.approx(math.log(6), abs=1e-3), "a router of zeros knows nothing"
    assert '"label":"2.1"' in (tmp_path / "page.html").read_text()


def assert_close(ours, theirs, where=""):
    """JSON whose figures are rounded to four digits."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_close(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs)):
            assert_close(*pair, f"{where}[{i}]")
    else:
        assert ours == (pytest.approx(theirs, rel=1e-3, abs=1e-5) if isinstance(theirs, float) else theirs), where


@pytest.mark.parametrize("count, family, iterations", [(2, "mixtral", 1), (3, "qwen2_moe-sparse", 1), (3, "qwen2_moe", 2)])
def test_ranks_see_what_one_sees(count, family, iterations, tmp_path):
    save_variant(family, tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    model = tmp_path / "model"
    if iterations > 1:
        model = tmp_path / "chained"
        run("chain", tmp_path / "model", model, "--iterations", iterations, "--top-k", 2)
    long, short = save_text(tmp_path / "long.txt", 60), tmp_path / "short.txt"
    short.write_text("A train leaves; def f(x).")  # two sequences: with three ranks one has none

    def arguments(out):
        return ["profile", model, "--data", long, "--data", short, "--tokens", 800, "--ctx", CTX, "--json", "-o", tmp_path / f"{out}.safetensors", "--report", tmp_path / f"{out}.html"]

    alone = json.loads(run(*arguments("alone"), "--threads", 1).stdout)
    assert alone["files"][1]["tokens"] == 16
    said = finish(start_ranks(count, *arguments("together")))
    assert json.loads(said[0])["tokens"] == alone["tokens"] and not any(said[1:]), "the first alone speaks"

    ours, theirs = (load_file(tmp_path / f"{out}.safetensors") for out in ("together", "alone"))
    assert ours.keys() == theirs.keys()
    for name in theirs.keys() - {"summary.json"}:
        if theirs[name].dtype == torch.int64:
            assert torch.equal(ours[name], theirs[name]), name
        else:
            assert torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5), name
    assert_close(*(drawn_on((tmp_path / f"{out}.html").read_text()) for out in ("together", "alone")))


def test_a_rank_that_fails_ends_the_others(tmp_path):
    save_variant("mixtral", tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    ranks = start_ranks(2, "profile", tmp_path / "model", "--data", save_text(tmp_path / "a.txt", 60), "-o", tmp_path / "s.safetensors",
                        own={1: ["--data", tmp_path / "nowhere.txt"]})
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert "nowhere.txt" in errors[1] and ranks[1].returncode != 0
    assert "another rank is gone" in errors[0] and ranks[0].returncode == 1
    assert not (tmp_path / "s.safetensors").exists()


def test_a_dense_model_is_refused(tmp_path):
    save_variant("llama", tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    done = run("profile", tmp_path / "model", "--data", save_text(tmp_path / "a.txt", 60), "-o", tmp_path / "s.safetensors", check=False)
    assert done.returncode == 3 and "no experts" in done.stderr
    assert not (tmp_path / "s.safetensors").exists()
