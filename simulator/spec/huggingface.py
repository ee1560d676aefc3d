"""Hugging Face config.json to model fields, by one explicit mapping per architecture.

What a config leaves to its class in the transformers library (biases, norms, gating, tied embeddings) is written out.
Only the language model of a multimodal config is read. Of the quantisation only the block of scales is kept: a run says
which precision it has. Rotary scaling, dropout and token ids have no bearing on size or speed and are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.errors import nearest
from simulator.spec.base import Document, read_document

Fields = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """A config.json: keys by subscript; a missing one is a SpecError that names it."""

    document: Document
    architecture: str
    data: Mapping[str, Any]
    prefix: tuple[str, ...]

    def __getitem__(self, key: str) -> Any:
        if key not in self.data:
            path = (*self.prefix, key)
            raise self.document.error(f"missing; {self.architecture} configs have it", path)
        return self.data[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or what the architecture's class assumes where the key is absent or null."""
        value = self.data.get(key)
        return default if value is None else value

    def refuse(self, key: str, *, unless: tuple[object, ...]) -> None:
        """Raise SpecError where `key` has a value this record can't express."""
        if self.data.get(key) is not None and self.data[key] not in unless:
            expected = " or ".join(repr(value) for value in unless)
            raise self.document.error(f"expected {expected}, got {self.data[key]!r:.80}", (*self.prefix, key))


def read_config(file: str) -> Fields:
    """The fields of a model from a Hugging Face config.json. Raises SpecError for an unknown architecture or key."""
    return model_fields(read_document(file))


def model_fields(document: Document) -> Fields:
    """Like `read_config`, from a parsed file."""
    data = document.data
    listed = data.get("architectures")
    if not isinstance(listed, list) or not listed:
        raise document.error("missing; a Hugging Face config names its architecture here", ("architectures",))
    architecture = str(listed[0])
    prefix: tuple[str, ...] = ()
    if architecture in _MULTIMODAL:
        inner = data.get("text_config")
        if not isinstance(inner, dict):
            raise document.error(f"missing; {architecture} configs have it", ("text_config",))
        data, prefix, architecture = inner, ("text_config",), _MULTIMODAL[architecture]
    if architecture not in _ARCHITECTURES:
        known = [*_ARCHITECTURES, *_MULTIMODAL]
        message = f"unknown architecture '{architecture[:200]}'.{nearest(architecture, known)}"
        raise document.error(message, ("architectures",))
    fields = _ARCHITECTURES[architecture](Config(document, architecture, data, prefix))
    path = Path(document.file).resolve()
    name = path.parent.name if path.stem == "config" else path.stem.removesuffix("_config")
    return {"name": name or "unnamed", "source": f"Hugging Face config ({architecture})", **fields}


def _sizes(config: Config, **defaults: bool) -> Fields:
    """The keys that Llama introduced and most others kept."""
    fields = {
        "num_hidden_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config.get("num_key_value_heads", config["num_attention_heads"]),
        "vocab_size": config["vocab_size"],
        "tie_word_embeddings": config.get("tie_word_embeddings", defaults.get("tied", False)),
        "max_position_embeddings": config.get("max_position_embeddings"),
    }
    if config.get("head_dim"):
        fields["head_dim"] = config["head_dim"]
    if blocks := config.get("quantization_config", {}).get("weight_block_size"):
        fields["weight_block_size"] = blocks
    return fields


def _llama(config: Config) -> Fields:
    bias = config.get("attention_bias", False)
    return _sizes(config) | {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": config.get("mlp_bias", False),
    }


def _mistral(config: Config) -> Fields:
    return _sizes(config) | {"sliding_window": config.get("sliding_window")}


def _mixtral(config: Config) -> Fields:
    return _mistral(config) | {
        "intermediate_size": 0,
        "moe_intermediate_size": config["intermediate_size"],
        "num_experts": config["num_local_experts"],
        "num_experts_per_tok": config["num_experts_per_tok"],
    }


def _qwen2(config: Config) -> Fields:
    config.refuse("use_sliding_window", unless=(False,))
    return _sizes(config) | {"attention_bias": True}


def _qwen_experts(config: Config) -> Fields:
    config.refuse("mlp_only_layers", unless=([],))
    return {
        "num_experts": config["num_experts"],
        "num_experts_per_tok": config["num_experts_per_tok"],
        "moe_intermediate_size": config["moe_intermediate_size"],
        "moe_every": config.get("decoder_sparse_step", 1),
    }


def _qwen2_moe(config: Config) -> Fields:
    shared = {
        "shared_expert_intermediate_size": config["shared_expert_intermediate_size"],
        "shared_expert_gate": True,
    }
    return _qwen2(config) | _qwen_experts(config) | shared


def _qwen3(config: Config) -> Fields:
    config.refuse("use_sliding_window", unless=(False,))
    return _llama(config) | {"qk_norm": True}


def _qwen3_moe(config: Config) -> Fields:
    return _qwen3(config) | _qwen_experts(config)


def _deepseek(config: Config) -> Fields:
    config.refuse("moe_layer_freq", unless=(1,))
    fields = _llama(config)
    if config.get("n_routed_experts"):
        fields |= {
            "num_experts": config["n_routed_experts"],
            "num_experts_per_tok": config["num_experts_per_tok"],
            "n_shared_experts": config.get("n_shared_experts", 0),
            "moe_intermediate_size": config["moe_intermediate_size"],
            "first_k_dense_replace": config.get("first_k_dense_replace", 0),
        }
    return fields


def _deepseek_v2(config: Config) -> Fields:
    fields = _deepseek(config)
    fields.pop("head_dim", None)  # configs name the rotary part so
    fields |= {
        key: config[key] for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_group")
    }
    # V2-Lite does not compress queries; from V3 on a bias per expert steers the choice and stands in the checkpoint.
    return fields | {
        "q_lora_rank": config.get("q_lora_rank"),
        "topk_group": config["topk_group"],
        "router_bias": config.get("topk_method") == "noaux_tc",
        "num_nextn_predict_layers": config.get("num_nextn_predict_layers", 0),
    }


def _gpt_oss(config: Config) -> Fields:
    kinds = config["layer_types"]
    if kinds != [("sliding_attention", "full_attention")[i % 2] for i in range(len(kinds))]:
        raise config.document.error("expected sliding_attention and full_attention in turn", ("layer_types",))
    return _llama(config) | {
        "attention_sinks": True,
        "intermediate_size": 0,
        "moe_intermediate_size": config["intermediate_size"],
        "num_experts": config["num_local_experts"],
        "num_experts_per_tok": config["num_experts_per_tok"],
        "router_bias": True,
        "expert_bias": True,
        "sliding_window": config["sliding_window"],
        "sliding_window_every": 2,
    }


def _llama4(config: Config) -> Fields:
    """Three of four layers attend in chunks, which is taken for a window of the same size."""
    return _llama(config) | {
        "intermediate_size": config["intermediate_size_mlp"],
        "moe_intermediate_size": config["intermediate_size"],
        "num_experts": config["num_local_experts"],
        "num_experts_per_tok": config["num_experts_per_tok"],
        "n_shared_experts": 1,
        "moe_every": config["interleave_moe_layer_step"],
        "sliding_window": config["attention_chunk_size"],
        "full_attention_every": 4,
    }


def _gemma2(config: Config) -> Fields:
    return _sizes(config, tied=True) | {
        "norms_per_layer": 4,
        "sliding_window": config["sliding_window"],
        "sliding_window_every": 2,
    }


def _gemma3(config: Config) -> Fields:
    return _sizes(config, tied=True) | {
        "norms_per_layer": 4,
        "qk_norm": True,
        "sliding_window": config["sliding_window"],
        "full_attention_every": config.get("sliding_window_pattern", 6),
    }


def _nemotron(config: Config) -> Fields:
    return _llama(config) | {"gated_ffn": False, "norm": "layernorm"}


def _biased(config: Config, heads: str, layers: str, hidden: str) -> Fields:
    """GPT-2 and its kin: layer norms with biases, two matrices in a feed-forward network four times as wide."""
    return {
        "num_hidden_layers": config[layers],
        "hidden_size": config[hidden],
        "intermediate_size": config.get("n_inner", 4 * config[hidden]),
        "num_attention_heads": config[heads],
        "vocab_size": config["vocab_size"],
        "norm": "layernorm",
        "gated_ffn": False,
        "mlp_bias": True,
        "attention_bias": True,
        "attention_output_bias": True,
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
    }


def _gpt2(config: Config) -> Fields:
    positions = config["n_positions"]
    return _biased(config, "n_head", "n_layer", "n_embd") | {
        "learned_positions": positions,
        "max_position_embeddings": positions,
    }


def _gptj(config: Config) -> Fields:
    return _biased(config, "n_head", "n_layer", "n_embd") | {
        "attention_bias": False,
        "attention_output_bias": False,
        "parallel_attention": True,
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "head_bias": True,
        "max_position_embeddings": config["n_positions"],
    }


def _bloom(config: Config) -> Fields:
    hidden = "hidden_size" if "hidden_size" in config.data else "n_embed"
    return _biased(config, "n_head", "n_layer", hidden) | {"embedding_norm": True}


def _gpt_neox(config: Config) -> Fields:
    bias = config.get("attention_bias", True)
    return _biased(config, "num_attention_heads", "num_hidden_layers", "hidden_size") | {
        "intermediate_size": config["intermediate_size"],
        "attention_bias": bias,
        "attention_output_bias": bias,
        "parallel_attention": config.get("use_parallel_residual", True),
        "norms_per_layer": 2,
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "max_position_embeddings": config.get("max_position_embeddings"),
    }


def _opt(config: Config) -> Fields:
    """Its table of positions has two rows more than the context."""
    config.refuse("do_layer_norm_before", unless=(True,))
    config.refuse("word_embed_proj_dim", unless=(config["hidden_size"],))
    positions = config["max_position_embeddings"]
    bias = config.get("enable_bias", True)
    return _biased(config, "num_attention_heads", "num_hidden_layers", "hidden_size") | {
        "intermediate_size": config["ffn_dim"],
        "mlp_bias": bias,
        "attention_bias": bias,
        "attention_output_bias": bias,
        "learned_positions": positions + 2,
        "max_position_embeddings": positions,
    }


def _falcon(config: Config) -> Fields:
    """The newer decoder norms attention and feed-forward network apart; the older one is multi-query by a flag."""
    new, bias = config.get("new_decoder_architecture", False), config.get("bias", False)
    parallel = new or config.get("parallel_attn", True)
    heads = config["num_attention_heads"]
    kv_heads = config["num_kv_heads"] if new else 1 if config.get("multi_query", True) else heads
    return _biased(config, "num_attention_heads", "num_hidden_layers", "hidden_size") | {
        "intermediate_size": config.get("ffn_hidden_size", 4 * config["hidden_size"]),
        "num_key_value_heads": kv_heads,
        "mlp_bias": bias,
        "attention_bias": bias,
        "attention_output_bias": bias,
        "parallel_attention": parallel,
        "norms_per_layer": config.get("num_ln_in_parallel_attn", 2) if new or not parallel else 1,
    }


_ARCHITECTURES: dict[str, Callable[[Config], Fields]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Phi3ForCausalLM": _mistral,
    "MixtralForCausalLM": _mixtral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen2MoeForCausalLM": _qwen2_moe,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "DeepseekForCausalLM": _deepseek,
    "DeepseekV2ForCausalLM": _deepseek_v2,
    "DeepseekV3ForCausalLM": _deepseek_v2,
    "GptOssForCausalLM": _gpt_oss,
    "Llama4ForCausalLM": _llama4,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "NemotronForCausalLM": _nemotron,
    "GPT2LMHeadModel": _gpt2,
    "GPTJForCausalLM": _gptj,
    "GPTNeoXForCausalLM": _gpt_neox,
    "BloomForCausalLM": _bloom,
    "OPTForCausalLM": _opt,
    "FalconForCausalLM": _falcon,
}

_MULTIMODAL = {
    "Llama4ForConditionalGeneration": "Llama4ForCausalLM",
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "KimiK25ForConditionalGeneration": "DeepseekV3ForCausalLM",
}
