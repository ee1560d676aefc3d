"""Parameter counts and forward FLOPs of a model, from its architecture alone; exact integers.

Total counts every weight, norms and routers included. Active is the total less the experts a token does not reach;
input and output embedding both count. Symbols: d hidden size, h query heads, g key-value heads, e head width,
f feed-forward width, E experts, k experts per token, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.spec.model import LayerKind, ModelSpec


@dataclass(frozen=True)
class LayerParameters:
    """Parameters of one layer by part."""

    attention: int
    """Projections, biases, query and key norms, sinks; cross attention too where the layer has it."""
    ffn: int
    """The dense network, the shared experts with their gate, or PEER's query networks and keys."""
    router: int
    experts: int
    """All routed experts the layer stores; PEER's too. Layers that share a set each show it here."""
    active_experts: int
    """Those of them one token reaches."""
    norms: int

    @property
    def shared(self) -> int:
        """What every token uses."""
        return self.attention + self.ffn + self.router + self.norms

    @property
    def total(self) -> int:
        """What the layer stores."""
        return self.shared + self.experts

    @property
    def active(self) -> int:
        """What one token uses."""
        return self.shared + self.active_experts


def attention_parameters(model: ModelSpec) -> int:
    """One attention block: its matrices, biases, norms of queries, keys and latents, and sinks."""
    count, q_rank, kv_rank = attention_matrices(model), model.q_lora_rank or 0, model.kv_lora_rank or 0
    if model.attention_bias:
        latent = (q_rank or model.q_dim) + kv_rank + model.qk_rope_head_dim
        count += latent if model.is_mla else model.q_dim + 2 * model.kv_dim
    if model.attention_output_bias:
        count += model.hidden_size
    if model.qk_norm:
        count += 2 * model.qk_dim
    if model.attention_sinks:
        count += model.num_attention_heads
    return count + q_rank + kv_rank


def attention_matrices(model: ModelSpec) -> int:
    """The matrices of one attention block: 2dhe + 2dge, or with latents those of arXiv 2405.04434, section 2.1."""
    d, h, q, rank = model.hidden_size, model.num_attention_heads, model.q_lora_rank, model.kv_lora_rank
    if rank is None:
        return 2 * d * model.q_dim + 2 * d * model.kv_dim
    query = (d + model.q_dim) * q if q else d * model.q_dim
    compress = d * (rank + model.qk_rope_head_dim)
    expand = rank * h * (model.qk_nope_head_dim + model.v_head_dim)
    return query + compress + expand + h * model.v_head_dim * d


def ffn_parameters(model: ModelSpec, width: int, *, gated: bool, bias: bool = False) -> int:
    """A feed-forward network of that width: 3df gated, 2df not."""
    into = 2 if gated else 1
    return (into + 1) * model.hidden_size * width + (into * width + model.hidden_size if bias else 0)


def dense_layer_ffn(model: ModelSpec) -> int:
    """The feed-forward network of a dense layer."""
    return ffn_parameters(model, model.intermediate_size, gated=model.gated_ffn, bias=model.mlp_bias)


def expert_parameters(model: ModelSpec) -> int:
    """One routed expert; 0 in a dense model."""
    width = model.moe_intermediate_size
    if not model.is_moe:
        return 0
    return ffn_parameters(model, width, gated=model.expert_gated_ffn, bias=model.expert_bias)


def shared_expert_parameters(model: ModelSpec) -> int:
    """The shared experts of a MoE layer together, with their gate."""
    width = model.shared_expert_intermediate_size
    if not width:
        return 0
    gate = model.hidden_size if model.shared_expert_gate else 0
    return ffn_parameters(model, width, gated=model.expert_gated_ffn, bias=model.expert_bias) + gate


def router_parameters(model: ModelSpec) -> int:
    """The router of a MoE layer: dE; 0 with fixed routing. Load-balancing offsets are buffers and not counted."""
    if model.num_experts is None or model.routing == "fixed":
        return 0
    return (model.hidden_size + (1 if model.router_bias else 0)) * model.num_experts


def norm_size(model: ModelSpec) -> int:
    """Parameters of one norm over the residual stream."""
    per_element = {"rmsnorm": 1, "layernorm_no_bias": 1, "layernorm": 2, "nonparametric": 0}
    return per_element[model.norm] * model.hidden_size


def norm_parameters_per_layer(model: ModelSpec, *, encoder: bool = False) -> int:
    """The norms of a layer; one more where it has cross attention."""
    cross = model.num_encoder_layers > 0 and not encoder
    return (model.norms_per_layer + (1 if cross else 0)) * norm_size(model)


def peer_parameters(model: ModelSpec) -> int:
    """One PEER layer (arXiv 2407.04153): experts 2Nd, keys sqrt(N)q, query networks hdq, batch norm 2hq; 0 without."""
    return peer_expert_parameters(model) + peer_retrieval_parameters(model)


def peer_expert_parameters(model: ModelSpec) -> int:
    """The experts of a PEER layer, each one neuron: a vector in and a vector out."""
    return 2 * model.peer.num_experts * model.hidden_size if model.peer else 0


def peer_retrieval_parameters(model: ModelSpec) -> int:
    """What finds a PEER layer's experts: two key sets, shared by the heads, and a query network per head."""
    peer = model.peer
    if peer is None:
        return 0
    queries = peer.num_heads * model.hidden_size * peer.query_dim
    batch_norm = 2 * peer.num_heads * peer.query_dim if peer.query_batch_norm else 0
    return peer.keys_per_set * peer.query_dim + queries + batch_norm


def embedding_parameters(model: ModelSpec) -> int:
    """Input embedding Vd, learned positions, and the norm after them where there is one."""
    rows = model.vocab_size + model.learned_positions
    return rows * model.hidden_size + (norm_size(model) if model.embedding_norm else 0)


def head_parameters(model: ModelSpec) -> int:
    """The output head: Vd, or only its bias where it is the input embedding."""
    matrix = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    return matrix + (model.vocab_size if model.head_bias else 0)


def final_norm_parameters(model: ModelSpec) -> int:
    """The norm after the last layer, of the encoder too where there is one."""
    return norm_size(model) * (2 if model.num_encoder_layers else 1)


@lru_cache(maxsize=1024)
def layer_parameters(model: ModelSpec, kind: LayerKind, *, encoder: bool = False) -> LayerParameters:
    """One layer of that kind, of the decoder unless `encoder`."""
    blocks = 2 if model.num_encoder_layers and not encoder else 1
    ffn = router = experts = active = 0
    match kind:
        case "dense":
            ffn = dense_layer_ffn(model)
        case "moe":
            one = expert_parameters(model)
            ffn, router = shared_expert_parameters(model), router_parameters(model)
            experts, active = (model.num_experts or 0) * one, model.num_experts_per_tok * one
        case "peer":
            ffn, experts = peer_retrieval_parameters(model), peer_expert_parameters(model)
            active = 2 * model.hidden_size * model.peer.num_heads * model.peer.top_k if model.peer else 0
    return LayerParameters(
        attention=blocks * attention_parameters(model),
        ffn=ffn,
        router=router,
        experts=experts,
        active_experts=active,
        norms=norm_parameters_per_layer(model, encoder=encoder),
    )


def _layers(model: ModelSpec) -> list[tuple[int, LayerParameters]]:
    """Each kind of layer that occurs and how often."""
    found = []
    for encoder, kinds in ((False, model.layer_kinds), (True, model.encoder_layer_kinds)):
        for kind in sorted(set(kinds)):
            found.append((kinds.count(kind), layer_parameters(model, kind, encoder=encoder)))
    return found


def _outside_layers(model: ModelSpec) -> int:
    return embedding_parameters(model) + head_parameters(model) + final_norm_parameters(model)


def _repeated_sets(model: ModelSpec) -> int:
    """Of the MoE layers, those whose set of experts another layer already counts."""
    return model.num_moe_layers - model.num_moe_layers // model.experts_shared_layers


def total_parameters(model: ModelSpec) -> int:
    """Every weight of the model; sets of experts that layers share count once."""
    repeated = _repeated_sets(model) * (model.num_experts or 0) * expert_parameters(model)
    return _outside_layers(model) + sum(n * layer.total for n, layer in _layers(model)) - repeated


def active_parameters(model: ModelSpec) -> int:
    """The total less the experts that a token does not reach; with shared sets a token meets the same experts again."""
    repeated = _repeated_sets(model) * model.num_experts_per_tok * expert_parameters(model)
    return _outside_layers(model) + sum(n * layer.active for n, layer in _layers(model)) - repeated


def mtp_parameters(model: ModelSpec) -> int:
    """The multi-token prediction modules (arXiv 2412.19437, section 2.2), embedding and head shared with the model.

    Each has a layer like the last, a projection of two concatenated normed inputs, and a final norm.
    """
    module = layer_parameters(model, model.layer_kinds[-1]).total + 2 * model.hidden_size**2 + 3 * norm_size(model)
    return model.num_nextn_predict_layers * module


def flops_per_token(model: ModelSpec, context: float) -> float:
    """Forward FLOPs of one token that attends to `context` tokens, within a sliding window to no more than that.

    2 FLOPs per weight the token meets (look-ups in embedding and positions are none) and, per layer, the products of
    queries with keys and of scores with values, 2h(e_qk + e_v) per attended token. In an encoder-decoder model it is a
    token on both sides, one that passes the encoder and one that passes the decoder.
    """
    return _forward_flops(model, sum(min(context, window or context) for window in model.attention_windows), context)


@lru_cache(maxsize=1024)
def sequence_flops_per_token(model: ModelSpec, seq_len: float) -> float:
    """The same, mean over the tokens of a sequence: causal attention counted once, an encoder's in full."""
    return _forward_flops(model, sum(mean_keys(seq_len, window) for window in model.attention_windows), seq_len)


def mean_keys(seq_len: float, window: int | None) -> float:
    """Keys a query sees on average under a causal mask, within a sliding window if there is one: S/2, or w - w^2/2S."""
    if window is None or window >= seq_len:
        return seq_len / 2
    return window - window * window / (2 * seq_len)


def _forward_flops(model: ModelSpec, attended: float, encoded: float) -> float:
    """`attended` sums over the decoder's layers; encoder and cross attention see `encoded` tokens each."""
    lookups = (model.learned_positions + (0 if model.tie_word_embeddings else model.vocab_size)) * model.hidden_size
    weights = _outside_layers(model) - lookups + sum(n * layer.active for n, layer in _layers(model))
    if model.num_encoder_layers:
        attended += (model.num_encoder_layers + model.num_hidden_layers) * encoded
    attention = 2.0 * model.num_attention_heads * (model.qk_dim + model.v_dim) * attended
    return 2.0 * weights + attention + model.layer_kinds.count("peer") * _peer_extra_flops(model)


def _peer_extra_flops(model: ModelSpec) -> int:
    """What the weights don't show: every head scores the shared keys, then adds up k*k candidate sums."""
    peer = model.peer
    if peer is None:
        return 0
    return 2 * (peer.num_heads - 1) * peer.keys_per_set * peer.query_dim + peer.num_heads * peer.top_k**2


def graph_density(model: ModelSpec) -> tuple[float, float]:
    """(active, stored) density |E| / (|V| (|V| - 1)) of the network of neurons, embedding and head left out.

    Neurons of a layer: queries, keys, values, the heads' outputs, the projected attention output, the feed-forward
    output, and in each feed-forward network its hidden ones: gate, up and their product where gated, else one each.
    Edges: one per entry of the attention and feed-forward matrices, each expert's too; not biases, norms and routers,
    and not the links that attention makes anew from the data. Active edges are those a token uses; the neurons are
    the same in both.
    """
    neurons = active = stored = 0
    for encoder, kinds in ((False, model.layer_kinds), (True, model.encoder_layer_kinds)):
        for kind in sorted(set(kinds)):
            count = kinds.count(kind)
            blocks = 2 if model.num_encoder_layers and not encoder else 1
            hidden, ffn_stored, ffn_active = _ffn_graph(model, kind)
            neurons += count * (blocks * _attention_neurons(model) + hidden + model.hidden_size)
            stored += count * (blocks * attention_matrices(model) + ffn_stored)
            active += count * (blocks * attention_matrices(model) + ffn_active)
    pairs = neurons * (neurons - 1)
    return active / pairs, stored / pairs


def _attention_neurons(model: ModelSpec) -> int:
    heads_out = model.num_attention_heads * model.v_dim
    values = model.num_key_value_heads * model.v_dim
    latent = (model.q_lora_rank or 0) + (model.kv_lora_rank or 0)
    return model.q_dim + model.kv_dim + values + latent + heads_out + model.hidden_size


def _ffn_graph(model: ModelSpec, kind: LayerKind) -> tuple[int, int, int]:
    """(hidden neurons, stored edges, active edges) of a layer's feed-forward networks."""
    d = model.hidden_size
    if kind == "peer" and model.peer:
        chosen = model.peer.num_heads * model.peer.top_k
        return model.peer.num_experts, 2 * d * model.peer.num_experts, 2 * d * chosen
    if kind == "dense":
        width = model.intermediate_size
        edges = ffn_parameters(model, width, gated=model.gated_ffn)
        return (3 if model.gated_ffn else 1) * width, edges, edges
    gated, experts, width = model.expert_gated_ffn, model.num_experts or 0, model.moe_intermediate_size
    shared = model.shared_expert_intermediate_size
    one, always = ffn_parameters(model, width, gated=gated), ffn_parameters(model, shared, gated=gated)
    hidden = (3 if gated else 1) * (experts * width + shared)
    return hidden, always + experts * one, always + model.num_experts_per_tok * one
