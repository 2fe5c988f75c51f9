"""`mixwright relayout` beside transformers: both layouts load with the same logits, and what mergekit 0.1.5 leaves on disk
(the layout of transformers 5 in memory) is repaired."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VARIANTS, make_model, run, save_variant
from transformers import AutoModelForCausalLM

FAMILIES = ["mixtral", "qwen3_moe", "qwen2_moe", "qwen2_moe-sparse"]


def logits(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(0, 48).reshape(2, 24)).logits


def tensors_of(directory):
    result = {}
    for file in sorted(directory.glob("*.safetensors")):
        result.update(load_file(file))
    return result


def save_in_memory_layout(model, directory):
    """As mergekit 0.1.5 writes it: names and shapes of transformers 5 in memory, straight to disk."""
    directory.mkdir()
    model.config.save_pretrained(directory)
    save_file({name: value.contiguous().clone() for name, value in model.state_dict().items()}, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_give_the_logits_of_the_original(family, tmp_path):
    model = save_variant(family, tmp_path / "original")
    (tmp_path / "original" / "tokenizer.json").write_text('{"kept": "as it is"}')
    original = logits(tmp_path / "original")
    for layout in ["fused", "per-expert"]:
        done = run("relayout", tmp_path / "original", tmp_path / layout, "--layout", layout, "--json")
        assert json.loads(done.stdout)["parameters"] == sum(p.numel() for p in model.parameters())
        assert torch.equal(logits(tmp_path / layout), original), layout
        assert (tmp_path / layout / "tokenizer.json").read_text() == '{"kept": "as it is"}'
        assert (tmp_path / layout / "config.json").read_bytes() == (tmp_path / "original" / "config.json").read_bytes()
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in tensors_of(tmp_path / "fused"))
    assert not any("gate_up_proj" in name for name in tensors_of(tmp_path / "per-expert"))


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_is_bit_exact(family, tmp_path):
    save_variant(family, tmp_path / "original")
    run("relayout", tmp_path / "original", tmp_path / "fused", "--layout", "fused", "--out-shard-size", "50KB")
    run("relayout", tmp_path / "fused", tmp_path / "back", "--layout", "per-expert")
    before, after = tensors_of(tmp_path / "original"), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_a_fused_mixtral_of_mergekit_becomes_canonical(tmp_path):
    save_in_memory_layout(make_model(*VARIANTS["mixtral"]), tmp_path / "mergekit")
    broken = tensors_of(tmp_path / "mergekit")
    assert "model.layers.0.mlp.experts.gate_up_proj" in broken and "model.layers.0.mlp.gate.weight" in broken
    run("relayout", tmp_path / "mergekit", tmp_path / "repaired", "--layout", "per-expert")
    repaired = tensors_of(tmp_path / "repaired")
    fused = broken["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(repaired["model.layers.1.block_sparse_moe.experts.3.w1.weight"], fused[3, :96])
    assert torch.equal(repaired["model.layers.1.block_sparse_moe.experts.3.w3.weight"], fused[3, 96:])
    assert torch.equal(repaired["model.layers.1.block_sparse_moe.experts.3.w2.weight"], broken["model.layers.1.mlp.experts.down_proj"][3])
    assert torch.equal(repaired["model.layers.1.block_sparse_moe.gate.weight"], broken["model.layers.1.mlp.gate.weight"])
    assert not any(".mlp." in name for name in repaired)
    assert torch.equal(logits(tmp_path / "repaired"), logits(tmp_path / "mergekit"))


def test_what_cannot_be_laid_out_is_refused(tmp_path):
    save_variant("llama", tmp_path / "dense")
    done = run("relayout", tmp_path / "dense", tmp_path / "out", "--layout", "fused", check=False)
    assert done.returncode == 3 and "dense architecture" in done.stderr
    save_variant("mixtral", tmp_path / "moe")
    done = run("relayout", tmp_path / "moe", tmp_path / "moe", "--layout", "fused", check=False)
    assert done.returncode == 2 and "is there already" in done.stderr
    done = run("relayout", tmp_path / "moe", tmp_path / "moe" / "inside", "--layout", "fused", check=False)
    assert done.returncode == 2 and "lies inside the input" in done.stderr
    assert not (tmp_path / "out").exists()
