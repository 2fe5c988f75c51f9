"""Chains of experts for a mixture of experts that transformers 5 knows (trust_remote_code). Written by mixwright.

A MoE block runs `inner_iter` times before its layer ends, each time with a router of its own (`use_igate`). On the stream
(chain_form "stream"):  x(0) = h;  x(t) = x(t-1) + chain_scale MoE_t(norm(x(t-1))).
In the form of the Chain-of-Experts paper ("normed"):  x(0) = norm(h);  x(t) = MoE_t(x(t-1)) [+ x(t-1) with inner_residual];
the layer gives x(C) [+ h with outer_residual].
"""

import torch
from torch import nn
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

BASE = ""
BaseConfig = CONFIG_MAPPING[BASE]
BaseModel = MODEL_FOR_CAUSAL_LM_MAPPING[BaseConfig]


class ChainedConfig(BaseConfig):
    model_type = "chained_" + BASE

    inner_iter: int | list[int] = 1
    use_igate: bool = True
    inner_residual: bool = True
    outer_residual: bool = False
    chain_form: str = "normed"
    chain_scale: float = 1.0


class Gate(nn.Module):
    def __init__(self, num_experts, hidden_size):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))


class Expert(nn.Module):
    def __init__(self, hidden_size, width, names):
        super().__init__()
        self.names = names
        for name, (out, into) in zip(names, ((width, hidden_size), (width, hidden_size), (hidden_size, width))):
            setattr(self, name, nn.Linear(into, out, bias=False))

    def forward(self, x):
        gate, up, down = (getattr(self, name) for name in self.names)
        return down(nn.functional.silu(gate(x)) * up(x))


class ChainedMoE(nn.Module):
    def __init__(self, config, block, layer_idx):
        super().__init__()
        each = config.inner_iter
        self.num_iterations = each[layer_idx] if isinstance(each, (list, tuple)) else each
        self.config = config
        mixtral = BASE == "mixtral"
        num_experts = block.experts.num_experts
        width = block.experts.intermediate_dim
        names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        self.experts = nn.ModuleList(Expert(config.hidden_size, width, names) for _ in range(num_experts))
        gates = nn.ModuleList(Gate(num_experts, config.hidden_size) for _ in range(self.num_iterations if config.use_igate else 1))
        self.gate = gates if config.use_igate else gates[0]
        self.normalize = True if mixtral else getattr(config, "norm_topk_prob", False)
        self.scale = getattr(config, "routed_scaling_factor", 1.0)
        for name in ("shared_expert", "shared_expert_gate", "shared_experts"):
            if getattr(block, name, None) is not None:
                setattr(self, name, getattr(block, name))
        self.stream = self.norm = None

    def run(self, x, iteration):
        gate = self.gate[iteration] if isinstance(self.gate, nn.ModuleList) else self.gate
        logits = nn.functional.linear(x, gate.weight)
        weights, chosen = logits.softmax(-1, dtype=torch.float32).topk(self.config.num_experts_per_tok, -1)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        weights = weights * self.scale
        y = torch.zeros_like(x, dtype=torch.float32)
        for expert in chosen.unique().tolist():
            token, slot = torch.where(chosen == expert)
            y.index_add_(0, token, self.experts[expert](x[token]).float() * weights[token, slot, None])
        y = y.to(x.dtype)
        if hasattr(self, "shared_expert"):
            y = y + self.shared_expert_gate(x).sigmoid() * self.shared_expert(x)
        if hasattr(self, "shared_experts"):
            y = y + self.shared_experts(x)
        return y

    def forward(self, hidden_states, *args, **kwargs):
        shape = hidden_states.shape
        stream = self.stream.reshape(-1, shape[-1])
        x = hidden_states.reshape(-1, shape[-1])
        if self.config.chain_form == "stream":
            grown = stream
            for t in range(self.num_iterations):
                grown = grown + self.config.chain_scale * self.run(x if t == 0 else self.norm[0](grown), t)
            return (grown - stream).view(shape)
        for t in range(self.num_iterations):
            y = self.run(x, t)
            x = y + x if self.config.inner_residual else y
        # The layer adds the stream to what it gets from here.
        return (x if self.config.outer_residual else x - stream).view(shape)


class Unregistered(nn.Module):
    """Calls a module that is registered under another name."""

    def __init__(self, module):
        super().__init__()
        self.held = (module,)

    def forward(self, *args, **kwargs):
        return self.held[0](*args, **kwargs)


class ChainedForCausalLM(BaseModel):
    config_class = ChainedConfig
    _can_record_outputs = {}

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            if not hasattr(layer.mlp, "experts"):
                continue
            chained = ChainedMoE(config, layer.mlp, index)
            layer.mlp = chained
            if BASE == "mixtral":
                layer.mlp = Unregistered(chained)
                layer.block_sparse_moe = chained
            chained.norm = (layer.post_attention_layernorm,)
            # The stream is what the norm before the experts is first called with.
            layer.register_forward_pre_hook(lambda _, __, chained=chained: setattr(chained, "stream", None))
            layer.post_attention_layernorm.register_forward_pre_hook(
                lambda _, inputs, chained=chained: setattr(chained, "stream", inputs[0]) if chained.stream is None else None)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, Gate):
            nn.init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
