"""Hugging Face configs: the keys that matter of real ones, and the counts of the models they describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import SpecError
from simulator.spec.model import resolve_model


def llama(d: int, layers: int, heads: int, kv_heads: int, ff: int, vocab: int, **more: Any) -> dict[str, Any]:
    """A config in the key names that Llama introduced."""
    return {
        "hidden_size": d,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ff,
        "vocab_size": vocab,
        **more,
    }


MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
V3_EXPERTS = {
    "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_group": 8, "topk_group": 4, "topk_method": "noaux_tc",
}  # fmt: skip
V2_LITE_EXPERTS = {
    "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
}  # fmt: skip
GPT_OSS = llama(2880, 24, 64, 8, 2880, 201088, head_dim=64, attention_bias=True, sliding_window=128) | {
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}
MAVERICK = llama(5120, 48, 40, 8, 8192, 202048, head_dim=128, intermediate_size_mlp=16384) | {
    "num_local_experts": 128,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 8192,
}
GEMMA3 = llama(5376, 62, 32, 16, 21504, 262208, head_dim=128, sliding_window=1024)
FALCON = {"new_decoder_architecture": True, "bias": False, "parallel_attn": True, "num_kv_heads": 8}

# architecture, the rest of the config, parameters, active parameters
CONFIGS: list[tuple[str, dict[str, Any], int, int]] = [
    ("LlamaForCausalLM", llama(4096, 32, 32, 32, 11008, 32000), 6_738_415_616, 6_738_415_616),
    ("LlamaForCausalLM", llama(8192, 80, 64, 8, 28672, 128256), 70_553_706_496, 70_553_706_496),
    ("MistralForCausalLM", llama(4096, 32, 32, 8, 14336, 32000, sliding_window=4096), 7_241_732_096, 7_241_732_096),
    ("Phi3ForCausalLM", llama(3072, 32, 32, 32, 8192, 32064), 3_821_079_552, 3_821_079_552),
    (
        "MixtralForCausalLM",
        llama(4096, 32, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2, sliding_window=None),
        46_702_792_704,
        12_879_925_248,
    ),
    ("Qwen2ForCausalLM", llama(3584, 28, 28, 4, 18944, 152064), 7_615_616_512, 7_615_616_512),
    (
        "Qwen2MoeForCausalLM",
        llama(2048, 24, 16, 16, 5632, 151936, num_experts=60, num_experts_per_tok=4, decoder_sparse_step=1)
        | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        14_315_784_192,
        2_689_173_504,
    ),
    ("Qwen3ForCausalLM", llama(4096, 36, 32, 8, 12288, 151936, head_dim=128), 8_190_735_360, 8_190_735_360),
    (
        "Qwen3MoeForCausalLM",
        llama(2048, 48, 32, 4, 6144, 151936, head_dim=128, num_experts=128, num_experts_per_tok=8)
        | {"moe_intermediate_size": 768, "mlp_only_layers": []},
        30_532_122_624,
        3_353_032_704,
    ),
    (
        "DeepseekForCausalLM",
        llama(2048, 28, 16, 16, 10944, 102400, n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2)
        | {"moe_intermediate_size": 1408, "first_k_dense_replace": 1},
        16_375_728_128,
        2_828_650_496,
    ),
    (
        "DeepseekV2ForCausalLM",
        llama(2048, 27, 16, 16, 10944, 102400, q_lora_rank=None) | MLA | V2_LITE_EXPERTS,
        15_706_484_224,
        2_661_150_208,
    ),
    (
        "DeepseekV3ForCausalLM",
        llama(7168, 61, 128, 128, 18432, 129280, q_lora_rank=1536, num_nextn_predict_layers=1) | MLA | V3_EXPERTS,
        671_026_419_200,
        37_552_297_472,
    ),
    ("GptOssForCausalLM", GPT_OSS, 20_914_757_184, 4_187_440_704),
    ("Llama4ForConditionalGeneration", {"text_config": MAVERICK}, 400_711_848_960, 17_184_691_200),
    (
        "Gemma2ForCausalLM",
        llama(3584, 42, 16, 8, 14336, 256000, head_dim=256, sliding_window=4096),
        9_241_705_984,
        9_241_705_984,
    ),
    ("Gemma3ForConditionalGeneration", {"text_config": GEMMA3}, 27_009_346_304, 27_009_346_304),
    ("NemotronForCausalLM", llama(6144, 32, 48, 8, 24576, 256000), 15_628_775_424, 15_628_775_424),
    (
        "GPT2LMHeadModel",
        {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "n_inner": None, "vocab_size": 50257},
        124_439_808,
        124_439_808,
    ),
    (
        "GPTJForCausalLM",
        {"n_layer": 28, "n_head": 16, "n_embd": 4096, "n_positions": 2048, "vocab_size": 50400},
        6_050_882_784,
        6_050_882_784,
    ),
    ("GPTNeoXForCausalLM", llama(6144, 44, 64, 64, 24576, 50432), 20_554_567_680, 20_554_567_680),
    (
        "BloomForCausalLM",
        {"n_layer": 70, "n_head": 112, "n_embed": 14336, "vocab_size": 250880},
        176_247_271_424,
        176_247_271_424,
    ),
    (
        "OPTForCausalLM",
        {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "ffn_dim": 3072, "vocab_size": 50272}
        | {"max_position_embeddings": 2048, "do_layer_norm_before": True, "word_embed_proj_dim": 768},
        125_239_296,
        125_239_296,
    ),
    (
        "FalconForCausalLM",
        {"num_hidden_layers": 32, "num_attention_heads": 71, "hidden_size": 4544, "vocab_size": 65024}
        | {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "bias": False},
        6_921_720_704,
        6_921_720_704,
    ),
    (
        "FalconForCausalLM",
        {"num_hidden_layers": 60, "num_attention_heads": 128, "hidden_size": 8192, "vocab_size": 65024} | FALCON,
        41_303_293_952,
        41_303_293_952,
    ),
]


def write(folder: Path, config: dict[str, Any]) -> str:
    """The path of a config.json in a folder named after the model."""
    (folder / "my-model").mkdir(exist_ok=True)
    file = folder / "my-model" / "config.json"
    file.write_text(json.dumps(config, indent=2))
    return str(file)


@pytest.mark.parametrize(("architecture", "config", "parameters", "active"), CONFIGS)
def test_counts_of_real_models(
    architecture: str, config: dict[str, Any], parameters: int, active: int, tmp_path: Path
) -> None:
    model = resolve_model(write(tmp_path, {"architectures": [architecture], "torch_dtype": "bfloat16", **config}))
    assert (model.parameters, model.active_parameters) == (parameters, active)
    assert model.name == "my-model"


def test_what_configs_leave_to_their_class(tmp_path: Path) -> None:
    qwen = resolve_model(write(tmp_path, {"architectures": ["Qwen2ForCausalLM"], **CONFIGS[5][1]}))
    assert (qwen.attention_bias, qwen.attention_output_bias, qwen.gated_ffn) == (True, False, True)
    oss = resolve_model(write(tmp_path, {"architectures": ["GptOssForCausalLM"], **GPT_OSS}))
    assert (oss.attention_sinks, oss.expert_bias, oss.router_bias) == (True, True, True)
    assert oss.attention_windows == (128, None) * 12
    llama4 = resolve_model(
        write(tmp_path, {"architectures": ["Llama4ForConditionalGeneration"], "text_config": MAVERICK})
    )
    assert llama4.attention_windows[:4] == (8192, 8192, 8192, None)
    assert llama4.layer_kinds == ("dense", "moe") * 24


def test_a_config_can_be_extended(tmp_path: Path) -> None:
    file = write(tmp_path, {"architectures": ["LlamaForCausalLM"], **CONFIGS[0][1]})
    model = resolve_model({"extends": file, "num_hidden_layers": 16})
    assert (model.name, model.hidden_size) == ("my-model with num_hidden_layers=16", 4096)


@pytest.mark.parametrize(
    ("config", "line", "path", "message"),
    [
        ({"model_type": "llama"}, 1, "architectures", "missing; a Hugging Face config names its architecture here"),
        (
            {"architectures": ["MixtralForCausalLn"]},
            2,
            "architectures",
            "unknown architecture 'MixtralForCausalLn'. Did you mean 'MixtralForCausalLM' or 'MistralForCausalLM'?",
        ),
        ({"architectures": ["LlamaForCausalLM"]}, 1, "num_hidden_layers", "missing; LlamaForCausalLM configs have it"),
        (
            {"architectures": ["MixtralForCausalLM"], **CONFIGS[0][1]},
            1,
            "num_local_experts",
            "missing; MixtralForCausalLM configs have it",
        ),
        (
            {"architectures": ["Llama4ForConditionalGeneration"]},
            1,
            "text_config",
            "missing; Llama4ForConditionalGeneration configs have it",
        ),
        (
            {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"hidden_size": 8}},
            5,
            "text_config.num_hidden_layers",
            "missing; Gemma3ForCausalLM configs have it",
        ),
        (
            {"architectures": ["Qwen3MoeForCausalLM"], "mlp_only_layers": [0], **CONFIGS[5][1]},
            5,
            "mlp_only_layers",
            "expected [], got [0]",
        ),
        (
            {"architectures": ["GptOssForCausalLM"], **GPT_OSS, "layer_types": ["full_attention"]},
            16,
            "layer_types",
            "expected sliding_attention and full_attention in turn",
        ),
        (
            {"architectures": ["LlamaForCausalLM"], **CONFIGS[0][1], "hidden_size": "wide"},
            None,
            "hidden_size",
            "Input should be a valid integer, unable to parse string as an integer, got 'wide'",
        ),
    ],
)
def test_wrong_configs(config: dict[str, Any], line: int | None, path: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, config)
    with pytest.raises(SpecError) as caught:
        resolve_model(file)
    place = file if line is None else f"{file}:{line}"
    assert str(caught.value) == f"{place}: {path}: {message}"


def test_not_json(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{'a': [}")
    with pytest.raises(SpecError, match=r"config\.json:1: not valid YAML"):
        resolve_model(str(file))
