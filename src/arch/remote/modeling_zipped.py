"""Experts that share rows, for a mixture of experts that transformers 5 knows (trust_remote_code). Written by mixwright.

The experts of a group have one gate and one up projection. Expert e reads rows [first, first + width) of its group's and has a
down projection of its own:  y_e = down_e(act(gate[window] x) * (up[window] x)).  Routers and all the rest are the base's.
`zipped_experts` of the config has an entry a layer (null where it is dense): {"rows": [rows of each group], "experts":
[[group, first, width] of each expert]}.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

BASE = ""
BaseConfig = CONFIG_MAPPING[BASE]
BaseModel = MODEL_FOR_CAUSAL_LM_MAPPING[BaseConfig]
SPARSE = BASE in ("mixtral", "phimoe")  # names of Mixtral and its kin on disk
GATE, UP, DOWN = ("w1", "w3", "w2") if SPARSE else ("gate_proj", "up_proj", "down_proj")


class ZippedConfig(BaseConfig):
    model_type = "zipped_" + BASE

    zipped_experts: list | None = None


class Projections(nn.Module):
    """Linear maps by the names they have on disk."""

    def __init__(self, **shapes):
        super().__init__()
        for name, (out, into) in shapes.items():
            setattr(self, name, nn.Linear(into, out, bias=False))


class ZippedExperts(nn.Module):
    def __init__(self, config, layout):
        super().__init__()
        self.windows = [tuple(window) for window in layout["experts"]]
        self.act = ACT2FN[config.hidden_act]
        hidden = config.hidden_size
        self.groups = nn.ModuleList(Projections(**{GATE: (rows, hidden), UP: (rows, hidden)}) for rows in layout["rows"])
        for expert, (_, _, width) in enumerate(self.windows):
            self.add_module(str(expert), Projections(**{DOWN: (hidden, width)}))

    def expert(self, index, x):
        group, first, width = self.windows[index]
        rows = slice(first, first + width)
        gate, up = (getattr(self.groups[group], name).weight[rows] for name in (GATE, UP))
        return getattr(getattr(self, str(index)), DOWN)(self.act(nn.functional.linear(x, gate)) * nn.functional.linear(x, up))

    def forward(self, hidden_states, top_k_index, top_k_weights):
        y = torch.zeros_like(hidden_states, dtype=torch.float32)
        for index in top_k_index.unique().tolist():
            token, slot = torch.where(top_k_index == index)
            y.index_add_(0, token, self.expert(index, hidden_states[token]).float() * top_k_weights[token, slot, None])
        return y.to(hidden_states.dtype)


class Unregistered(nn.Module):
    """Calls a module that is registered under another name."""

    def __init__(self, module):
        super().__init__()
        self.held = (module,)

    def forward(self, *args, **kwargs):
        return self.held[0](*args, **kwargs)


class ZippedForCausalLM(BaseModel):
    config_class = ZippedConfig
    _can_record_outputs = {}

    def __init__(self, config):
        super().__init__(config)
        for layer, layout in zip(self.model.layers, config.zipped_experts, strict=True):
            if layout is None:
                continue
            block = layer.mlp
            block.experts = ZippedExperts(config, layout)
            if SPARSE:
                layer.block_sparse_moe = block
                layer.mlp = Unregistered(block)
            if hasattr(block, "router"):
                block.gate = block.router
                block.router = Unregistered(block.gate)
        self.post_init()
