"""Our safetensors beside the reference crate: it reads what we write, and we accept no header that it refuses."""

import json
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import BINARY, VARIANTS, make_model, our_logits, run, save_variant

ACCEPTS = Path(BINARY).parent / "accepts-safetensors"
MUTATIONS = int(os.environ.get("MIXWRIGHT_MUTATIONS", "2000"))

BASE = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
    "c": {"dtype": "U8", "shape": [0, 5], "data_offsets": [24, 24]},
    "d": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
}
SNIPPETS = [b"-", b"0", b"1", b"9", b".", b"e", b"null", b"true", b'"', b"\\u0000", b"\\ud800", b"[", b"]", b"{", b"}", b",", b":", b" ", b"\n", b"\0",
            b"\xef\xbb\xbf", b"\xff", b"18446744073709551616", b"9223372036854775808", b'"x":1,', b'"dtype":"F32",', b"F64", b"BOOL", b"F8_E8M0", b"16", b"24"]


def mutated(rng):
    header = bytearray(json.dumps(BASE, separators=(",", ":")).encode())
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(header))
        kind = rng.randrange(4)
        if kind == 0:
            header[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            header[at:at] = rng.choice(SNIPPETS)
        elif kind == 2:
            del header[at:at + rng.randint(1, 4)]
        else:
            header[at:at + 1] = rng.choice(SNIPPETS)
    length = len(header) + (rng.choice([0, 0, 0, 0, 1, -1, 8]))
    return struct.pack("<Q", max(0, length)) + bytes(header) + bytes(rng.choice([32, 32, 32, 32, 31, 33]))


def reference_accepts(path):
    try:
        with safe_open(path, "pt"):
            return True
    except Exception:
        return False


def test_nothing_is_accepted_that_the_reference_refuses(tmp_path):
    rng = random.Random(0)
    paths = []
    for i in range(MUTATIONS):
        paths.append(tmp_path / f"{i}.safetensors")
        paths[-1].write_bytes(mutated(rng))
    paths.append(tmp_path / "good.safetensors")
    header = json.dumps(BASE).encode()
    paths[-1].write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    answers = subprocess.run([ACCEPTS], input="\n".join(map(str, paths)), capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(answers) == len(paths)
    assert answers[-1] == "accepted" and reference_accepts(paths[-1])
    ours = {path for path, answer in zip(paths, answers) if answer == "accepted"}
    assert len(ours) > 10  # some mutations do no harm
    assert [path.read_bytes() for path in sorted(ours) if not reference_accepts(path)] == []


def test_the_reference_reads_what_we_write(tmp_path):
    model = save_variant("qwen2_moe", tmp_path / "original")
    run("relayout", tmp_path / "original", tmp_path / "ours", "--layout", "per-expert", "--out-shard-size", "60KB")
    index = json.loads((tmp_path / "ours/model.safetensors.index.json").read_text())
    total = 0
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "ours" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            total += opened.get_tensor(name).nbytes
    assert total == index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())


def save_adapter(directory, tensors, **config):
    directory.mkdir()
    save_file({f"base_model.model.{name}": value.contiguous() for name, value in tensors.items()}, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}))


@pytest.mark.parametrize("rslora", [False, True])
def test_a_lora_adapter_is_merged_as_its_formula_says(rslora, tmp_path):
    model = make_model(*VARIANTS["llama"])
    model.save_pretrained(tmp_path / "base")
    state, adapter = model.state_dict(), {}
    ranks = {"model.layers.0.self_attn.q_proj": 4, "model.layers.1.mlp.down_proj": 2, "model.layers.2.mlp.gate_proj": 4}
    for name, rank in ranks.items():
        weight = state[f"{name}.weight"]
        a, b = torch.randn(rank, weight.shape[1]), torch.randn(weight.shape[0], rank)
        adapter[f"{name}.lora_A.weight"], adapter[f"{name}.lora_B.weight"] = a, b
        alpha = 16 if name.endswith("gate_proj") else 8
        weight += alpha / (rank ** 0.5 if rslora else rank) * (b @ a)
    a, b = torch.randn(4, 320), torch.randn(64, 4)
    adapter["model.embed_tokens.lora_embedding_A"], adapter["model.embed_tokens.lora_embedding_B"] = a, b
    state["model.embed_tokens.weight"] += 8 / (2 if rslora else 4) * (b @ a).T
    adapter["lm_head.weight"] = torch.randn_like(state["lm_head.weight"])
    state["lm_head.weight"].copy_(adapter["lm_head.weight"])
    save_adapter(tmp_path / "adapter", adapter, use_rslora=rslora, modules_to_save=["lm_head"],
                 rank_pattern={"model.layers.1.mlp.down_proj": 2}, alpha_pattern={"gate_proj": 16})
    ids = [[1, 5, 9, 200, 7, 3]]
    ours = our_logits(f"{tmp_path}/base+{tmp_path}/adapter", ids, tmp_path)
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("config, tensors, message", [
    (dict(use_dora=True), {}, "use_dora"),
    (dict(peft_type="IA3"), {}, "only LORA adapters"),
    (dict(rank_pattern={".*q_proj": 8}), {}, "is a regular expression"),
    ({}, {"model.layers.9.mlp.up_proj.lora_A.weight": (4, 64), "model.layers.9.mlp.up_proj.lora_B.weight": (96, 4)}, "the base model has no such tensor"),
    ({}, {"model.layers.0.mlp.up_proj.lora_A.weight": (4, 64)}, "lora_B is missing"),
    ({}, {"model.layers.0.mlp.up_proj.lora_A.weight": (4, 64), "model.layers.0.mlp.up_proj.lora_B.weight": (95, 4)}, "the adapter makes [95, 64], the base has [96, 64]"),
    ({}, {"model.layers.0.mlp.up_proj.lora_A.weight": (2, 64), "model.layers.0.mlp.up_proj.lora_B.weight": (96, 2)}, "rank 2 in the file, 4 in adapter_config.json"),
    ({}, {"model.layers.0.mlp.up_proj.lora_magnitude_vector": (96,)}, "not a part of a plain LoRA"),
])
def test_adapters_that_cannot_be_merged_are_refused(config, tensors, message, tmp_path):
    save_variant("llama", tmp_path / "base")
    save_adapter(tmp_path / "adapter", {name: torch.zeros(shape) for name, shape in tensors.items()}, **config)
    (tmp_path / "ids.json").write_text("[[1]]")
    done = run("logits", f"{tmp_path}/base+{tmp_path}/adapter", "--ids", tmp_path / "ids.json", "-o", tmp_path / "out.safetensors", check=False)
    assert done.returncode == 3
    assert message in done.stderr
