"""Chain-of-Experts on top of transformers' DeepSeek-V2: the oracle of coe_deepseekv2, in the layout of the reference."""

import copy
import json

import torch
from safetensors.torch import save_file
from tiny_models import SMALL, DEEPSEEK, randomize
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2DecoderLayer

VARIANTS = {
    "inner": dict(inner_iter=2, inner_residual=True, outer_residual=False, use_igate=True),
    "one-gate": dict(inner_iter=2, inner_residual=True, outer_residual=False, use_igate=False),
    "outer": dict(inner_iter=2, inner_residual=False, outer_residual=True, use_igate=True),
    "both": dict(inner_iter=2, inner_residual=True, outer_residual=True, use_igate=True, first_k_dense_replace=0),
    "as-the-reference-says-it": dict(inner_iter=2, residual="addinit", use_igate=True),
}


class ChainedLayer(DeepseekV2DecoderLayer):
    """A layer whose MoE block runs several times on its own output before (or instead of) rejoining the stream."""

    def forward(self, hidden_states, **kwargs):
        hidden = hidden_states + self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
        first = x = self.post_attention_layernorm(hidden)
        residual = self.chain.get("residual")
        for t in range(self.chain["inner_iter"]):
            if self.gates:
                self.mlp.gate = self.gates[t]
            y = self.mlp(x)
            if residual == "inner" or (residual is None and self.chain["inner_residual"]):
                y = x + y
            if residual == "addinit":
                y = first + y
            x = y
        return x + hidden if residual == "outer" or self.chain.get("outer_residual") else x


def make_chained(variant, seed=0):
    chain = VARIANTS[variant]
    torch.manual_seed(seed)
    config = DeepseekV2Config(**{**SMALL, **DEEPSEEK, **{k: v for k, v in chain.items() if k == "first_k_dense_replace"}})
    model = DeepseekV2ForCausalLM(config)
    randomize(model)
    for layer in model.model.layers:
        if not hasattr(layer.mlp, "gate"):
            continue
        layer.__class__, layer.chain = ChainedLayer, chain
        gates = [copy.deepcopy(layer.mlp.gate) for _ in range(chain["inner_iter"])] if chain["use_igate"] else []
        for gate in gates:
            torch.nn.init.normal_(gate.weight, std=1.3 / config.hidden_size**0.5)
        object.__setattr__(layer, "gates", gates)
    return model.eval()


def save_chained(model, directory, variant, dtype=torch.float32):
    """Per-expert tensors and gates under the names of the reference."""
    directory.mkdir(parents=True)
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.to(dtype)
        if name.endswith("experts.gate_up_proj"):
            for e, (gate, up) in enumerate(matrix.chunk(2) for matrix in value):
                tensors[f"{name[:-13]}.{e}.gate_proj.weight"], tensors[f"{name[:-13]}.{e}.up_proj.weight"] = gate, up
        elif name.endswith("experts.down_proj"):
            for e, down in enumerate(value):
                tensors[f"{name[:-10]}.{e}.down_proj.weight"] = down
        elif not name.endswith("mlp.gate.weight"):
            tensors[name] = value
    for n, layer in enumerate(model.model.layers):
        if not hasattr(layer.mlp, "gate"):
            continue
        for t, gate in enumerate(layer.gates):
            tensors[f"model.layers.{n}.mlp.gate.{t}.weight"] = gate.weight.to(dtype)
        if not layer.gates:
            tensors[f"model.layers.{n}.mlp.gate.weight"] = layer.mlp.gate.weight.to(dtype)
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, directory / "model.safetensors")
    config = {**model.config.to_dict(), **VARIANTS[variant], "model_type": "coe_deepseekv2", "architectures": ["CoeForCausalLM"]}
    (directory / "config.json").write_text(json.dumps(config))
