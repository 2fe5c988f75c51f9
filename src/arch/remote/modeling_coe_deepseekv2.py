"""Chain-of-Experts on DeepSeek-V2's attention and experts, for transformers 5 (trust_remote_code).

A MoE block runs `inner_iter` times on its own output before it rejoins the stream:

    x(0) = norm(h);  x(t) = MoE_t(x(t-1)) + shared(x(t-1)) [+ x(t-1) with inner_residual];  y = x(C) [+ h with outer_residual]

or, with chain_form "stream", on the stream:  x(0) = h;  x(t) = x(t-1) + chain_scale (MoE_t + shared)(norm(x(t-1)));  y = x(C).

`use_igate` gives every iteration a router of its own. Tensor names and config keys are those of the original code, so that
weights are exchangeable with it: `mlp.gate.T.weight`, or `mlp.gate.weight` when the routers are shared. Written by mixwright.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import (
    DeepseekV2DecoderLayer,
    DeepseekV2ForCausalLM,
    DeepseekV2MLP,
    DeepseekV2Model,
    DeepseekV2PreTrainedModel,
)


class CoeDeepseekv2Config(DeepseekV2Config):
    model_type = "coe_deepseekv2"

    inner_iter: int | list[int] = 2
    inner_residual: bool = True
    outer_residual: bool = False
    use_igate: bool = True
    norm_topk_prob: bool = False
    chain_form: str = "normed"
    chain_scale: float = 1.0


def iterations(config, layer):
    return config.inner_iter[layer] if isinstance(config.inner_iter, (list, tuple)) else config.inner_iter


class CoeDeepseekv2Gate(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.normalize = config.norm_topk_prob
        self.scale = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))

    def forward(self, x):
        scores = nn.functional.linear(x.float(), self.weight.float()).softmax(-1)
        weights, chosen = scores.topk(self.top_k, -1, sorted=False)
        if self.normalize and self.top_k > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        else:
            weights = weights * self.scale
        return weights, chosen


class CoeDeepseekv2MoE(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.num_iterations = iterations(config, layer_idx)
        self.inner_residual = config.inner_residual
        self.experts = nn.ModuleList(DeepseekV2MLP(config, intermediate_size=config.moe_intermediate_size) for _ in range(config.n_routed_experts))
        if config.use_igate:
            self.gate = nn.ModuleList(CoeDeepseekv2Gate(config) for _ in range(self.num_iterations))
        else:
            self.gate = CoeDeepseekv2Gate(config)
        shared = config.n_shared_experts
        self.shared_experts = DeepseekV2MLP(config, intermediate_size=config.moe_intermediate_size * shared) if shared else None

    def route_and_run(self, x, gate):
        weights, chosen = gate(x)
        y = torch.zeros_like(x, dtype=torch.float32)
        for expert in chosen.unique().tolist():
            token, slot = torch.where(chosen == expert)
            y.index_add_(0, token, self.experts[expert](x[token]).float() * weights[token, slot, None])
        y = y.to(x.dtype)
        return y + self.shared_experts(x) if self.shared_experts is not None else y

    def iteration(self, x, t):
        gate = self.gate[t] if isinstance(self.gate, nn.ModuleList) else self.gate
        return self.route_and_run(x.reshape(-1, x.shape[-1]), gate).view(x.shape)

    def forward(self, hidden_states):
        x = hidden_states
        for t in range(self.num_iterations):
            y = self.iteration(x, t)
            x = y + x if self.inner_residual else y
        return x

    def on_stream(self, hidden_states, norm, scale):
        x = hidden_states
        for t in range(self.num_iterations):
            x = x + scale * self.iteration(norm(x), t)
        return x


class CoeDeepseekv2DecoderLayer(DeepseekV2DecoderLayer):
    def __init__(self, config, layer_idx):
        # The parent's own experts are not wanted: let it build a dense layer.
        nn.Module.__init__(self)
        parent = DeepseekV2DecoderLayer.__new__(DeepseekV2DecoderLayer)
        dense = type(config).from_dict({**config.to_dict(), "first_k_dense_replace": layer_idx + 1})
        dense._attn_implementation = config._attn_implementation
        DeepseekV2DecoderLayer.__init__(parent, dense, layer_idx)
        self.hidden_size = config.hidden_size
        self.self_attn = parent.self_attn
        self.self_attn.config = config
        self.input_layernorm = parent.input_layernorm
        self.post_attention_layernorm = parent.post_attention_layernorm
        frequency = getattr(config, "moe_layer_freq", 1) or 1
        self.is_moe = layer_idx >= config.first_k_dense_replace and layer_idx % frequency == 0
        self.mlp = CoeDeepseekv2MoE(config, layer_idx) if self.is_moe else parent.mlp
        self.outer_residual = config.outer_residual or not self.is_moe
        self.on_stream, self.chain_scale = config.chain_form == "stream", config.chain_scale

    def forward(self, hidden_states, **kwargs):
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        if self.is_moe and self.on_stream:
            return self.mlp.on_stream(hidden_states, self.post_attention_layernorm, self.chain_scale)
        y = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + y if self.outer_residual else y


class CoeDeepseekv2PreTrainedModel(DeepseekV2PreTrainedModel):
    config_class = CoeDeepseekv2Config
    _no_split_modules = ["CoeDeepseekv2DecoderLayer"]
    _can_record_outputs = {"hidden_states": CoeDeepseekv2DecoderLayer}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, CoeDeepseekv2Gate):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)


class CoeDeepseekv2Model(CoeDeepseekv2PreTrainedModel, DeepseekV2Model):
    def __init__(self, config):
        plain = type(config).from_dict({**config.to_dict(), "num_hidden_layers": 0})
        plain._attn_implementation = config._attn_implementation
        DeepseekV2Model.__init__(self, plain)
        self.config = config
        self.layers = nn.ModuleList(CoeDeepseekv2DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.post_init()


class CoeDeepseekv2ForCausalLM(CoeDeepseekv2PreTrainedModel, DeepseekV2ForCausalLM, GenerationMixin):
    def __init__(self, config):
        CoeDeepseekv2PreTrainedModel.__init__(self, config)
        self.model = CoeDeepseekv2Model(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
