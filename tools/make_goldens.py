"""Writes tests/goldens/MODEL_TYPE.txt for every architecture: a config.json, the number of parameters, and the names and shapes
of the tensors that transformers saves for it. tests/arch/registry_test.cpp holds our tables against them.

    build/venv/bin/python tools/make_goldens.py
"""

import json
import sys
import tempfile
from pathlib import Path

from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/oracle"))
import chained_deepseek  # noqa: E402
from tiny_models import VARIANTS, make_model  # noqa: E402

GOLDENS = ROOT / "tests/goldens"
# transformers has no class for the first DeepSeek-MoE: its layers are Llama's with the experts of DeepSeek-V2.
DEEPSEEK = dict(model_type="deepseek", architectures=["DeepseekForCausalLM"], n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2,
                moe_intermediate_size=48, first_k_dense_replace=1, norm_topk_prob=False)


def tensors_of(directory):
    result = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            result.update({name: handle.get_slice(name).get_shape() for name in handle.keys()})
    return result


def write(model_type, config, parameters, tensors):
    for key in ("transformers_version", "_name_or_path", "id2label", "label2id"):
        config.pop(key, None)
    lines = [f"config {json.dumps(config, sort_keys=True)}", f"parameters {parameters}"]
    lines += [f"tensor {name} {' '.join(map(str, shape))}" for name, shape in sorted(tensors.items())]
    (GOLDENS / f"{model_type}.txt").write_text("\n".join(lines) + "\n")


def numel(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def of_transformers(model_type, changes):
    fewer = {} if "n_group" in changes else dict(n_routed_experts=4, num_experts=4, num_local_experts=4)
    changes = {**changes, **{key: value for key, value in fewer.items() if key in changes}}
    model = make_model(model_type, changes)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        config = json.loads((Path(directory) / "config.json").read_text())
        tensors = tensors_of(Path(directory))
    write(model_type, config, sum(numel(shape) for shape in tensors.values()), tensors)


def deepseek():
    model = make_model("llama", {})
    tensors = {}
    for name, value in model.state_dict().items():
        layer = name.split(".")[2] if ".layers." in name else ""
        if ".mlp." not in name or layer == "0":
            tensors[name] = list(value.shape)
    for layer in (1, 2):
        prefix = f"model.layers.{layer}.mlp"
        tensors[f"{prefix}.gate.weight"] = [4, 64]
        for expert, width in [(f"experts.{e}", 48) for e in range(4)] + [("shared_experts", 96)]:
            for part, shape in (("gate", [width, 64]), ("up", [width, 64]), ("down", [64, width])):
                tensors[f"{prefix}.{expert}.{part}_proj.weight"] = shape
    write("deepseek", {**model.config.to_dict(), **DEEPSEEK}, sum(map(numel, tensors.values())), tensors)


def coe():
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        chained_deepseek.save_chained(chained_deepseek.make_chained("inner"), path, "inner")
        tensors = tensors_of(path)
        write("coe_deepseekv2", json.loads((path / "config.json").read_text()), sum(map(numel, tensors.values())), tensors)


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    done = set()
    for model_type, changes in VARIANTS.values():
        if model_type not in done:
            of_transformers(model_type, changes)
            done.add(model_type)
    deepseek()
    coe()
    print(f"{len(list(GOLDENS.glob('*.txt')))} goldens")
