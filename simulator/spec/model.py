"""The architecture of a transformer: dense, Mixture of Experts, PEER, decoder only or encoder-decoder.

Fields keep the names of Hugging Face configs; those that configs lack are `gated_ffn`, `norm`, `moe_every`, `peer`
and a few that exact parameter counts need. Counting itself is in `simulator.spec.parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from simulator.errors import SpecError
from simulator.spec import parameters as counts
from simulator.spec.base import Document, Spec, first_error, read_catalog, read_document
from simulator.spec.dimensions import Count, CountOrNone, LayerCount, LayerCountOrNone
from simulator.spec.huggingface import read_config
from simulator.spec.peer import PeerSpec

LayerKind = Literal["dense", "moe", "peer"]
Layers = tuple[LayerKind, ...]


def _allow_extends(schema: dict[str, Any]) -> None:
    """In a file or mapping, `extends` stands for whatever is left out; `resolve_model` takes it away."""
    schema["properties"]["extends"] = {"type": "string", "description": "A model whose fields the others replace."}
    schema["anyOf"] = [{"required": ["extends"]}, {"required": schema.pop("required")}]


class ModelSpec(Spec):
    """A model's architecture. Sizes are numbers of elements; `parameters` and `active_parameters` are exact."""

    model_config = ConfigDict(use_attribute_docstrings=True, json_schema_extra=_allow_extends)

    name: str = Field(default="unnamed", max_length=200)
    """As people write it, for example mixtral-8x7b; a file's own name where it is left out."""
    source: str = ""
    """Where the numbers come from."""
    notes: str = ""
    """What a reader must know before trusting the numbers."""
    status: Literal["published", "inferred", "reconstruction", "stand-in", "ours"] = "published"
    """Whether the numbers are the authors' (published), partly derived (inferred), a guess that fits what leaked or was
    stated (reconstruction), another model in the place of an undisclosed one (stand-in), or chosen here (ours)."""

    num_hidden_layers: LayerCount
    """Layers; of the decoder where there is an encoder too."""
    num_encoder_layers: LayerCountOrNone = 0
    """Layers of the encoder; then every decoder layer has cross attention."""
    hidden_size: Count
    """Width of the residual stream."""
    vocab_size: CountOrNone
    """Rows of the embedding; 0 where nobody has published it, and then neither embedding nor head is counted."""
    intermediate_size: CountOrNone = 0
    """Width of the dense feed-forward network; 0 where no layer is dense."""
    gated_ffn: bool = True
    """Three matrices (SwiGLU, GEGLU) rather than two."""
    mlp_bias: bool = False
    """Biases in the dense feed-forward network."""
    tie_word_embeddings: bool = False
    """One matrix serves as input embedding and output head."""
    head_bias: bool = False
    """A bias on the output head (GPT-J)."""
    embedding_norm: bool = False
    """A norm right after the embedding (BLOOM)."""
    learned_positions: CountOrNone = 0
    """Rows of a learned position embedding; 0 with rotary, relative or no positions."""
    max_position_embeddings: Count | None = None
    """Longest context the authors state, in tokens."""
    weight_block_size: tuple[Count, Count] | None = None
    """Rows and columns of weights that share a scale in the authors' fp8 checkpoint, as in DeepSeek-V3's; its kernels
    differ from those with one scale a tensor."""

    norm: Literal["rmsnorm", "layernorm", "layernorm_no_bias", "nonparametric"] = "rmsnorm"
    """Kind of norm: weights, weights and biases, weights only, or no parameters at all."""
    parallel_attention: bool = False
    """Attention and feed-forward network read the same input (GPT-J, PaLM, Falcon)."""
    norms_per_layer: Annotated[int, Field(ge=1, le=8)] = Field(
        default_factory=lambda data: 1 if data.get("parallel_attention") else 2
    )
    """Norms of width `hidden_size` in a layer without cross attention; 1 with parallel attention, 2 else."""

    num_attention_heads: Count
    """Query heads."""
    num_key_value_heads: Count = Field(default_factory=lambda data: data.get("num_attention_heads", 1))
    """Key and value heads; as many as query heads where left out."""
    kv_lora_rank: Count | None = None
    """Width of the compressed keys and values; multi-head latent attention (arXiv 2405.04434) where set."""
    q_lora_rank: Count | None = None
    """Width of the compressed query; no compression where left out."""
    qk_nope_head_dim: CountOrNone = 0
    """Latent attention: part of a query or key head without rotary positions."""
    qk_rope_head_dim: CountOrNone = 0
    """Latent attention: part with rotary positions; its key is shared by all heads."""
    v_head_dim: CountOrNone = 0
    """Latent attention: width of a value head."""
    head_dim: Count = Field(default_factory=lambda data: _head_dim(data))
    """Width of a query head; hidden_size / num_attention_heads where left out."""
    attention_bias: bool = False
    """Biases on queries, keys and values."""
    attention_output_bias: bool = False
    """A bias on the projection after attention."""
    qk_norm: bool = False
    """Norms with weights of width `head_dim` on queries and on keys."""
    attention_sinks: bool = False
    """One learned scalar per query head in the softmax (gpt-oss)."""
    sliding_window: Count | None = None
    """Tokens a sliding layer looks back on."""
    sliding_window_every: LayerCount = 1
    """One in this many layers slides, beginning with the first: 1 all, 2 every other."""
    full_attention_every: LayerCount | None = None
    """All layers slide but every k-th, for example 6 in Gemma 3."""

    num_experts: Count | None = None
    """Routed experts in a MoE layer; a dense model where left out."""
    num_experts_per_tok: CountOrNone = 0
    """Routed experts that work on a token."""
    moe_intermediate_size: CountOrNone = Field(
        default_factory=lambda data: data.get("intermediate_size", 0) if data.get("num_experts") else 0
    )
    """Width of one expert; as wide as a dense layer where left out."""
    n_shared_experts: CountOrNone = 0
    """Experts that work on every token, run as one network."""
    shared_expert_intermediate_size: CountOrNone = Field(
        default_factory=lambda data: data.get("n_shared_experts", 0) * data.get("moe_intermediate_size", 0)
    )
    """Width of all shared experts together; n_shared_experts times an expert where left out."""
    shared_expert_gate: bool = False
    """A learned scalar gate on the shared experts (Qwen MoE)."""
    first_k_dense_replace: LayerCountOrNone = 0
    """The first k layers are dense."""
    moe_every: LayerCount = 1
    """Of the others, every k-th is a MoE layer: those whose number, counted from 1, k divides."""
    expert_gated_ffn: bool = Field(default_factory=lambda data: data.get("gated_ffn", True))
    """Experts have three matrices; like the dense layers where left out (GLaM's are not)."""
    expert_bias: bool = False
    """Biases in the experts."""
    router_bias: bool = False
    """A bias on the router."""
    n_group: Count | None = None
    """Groups of experts; a token's experts come from at most `topk_group` of them."""
    topk_group: Count | None = None
    """Groups a token may reach."""
    routing: Literal["learned", "fixed", "expert_choice"] = "learned"
    """How tokens find experts: a learned router, a fixed table by word (MoWE), or experts choosing tokens."""
    experts_shared_layers: LayerCount = 1
    """MoE layers that share one set of experts (4 in MoWE)."""
    peer: PeerSpec | None = None
    """PEER layers, where there are any."""
    num_nextn_predict_layers: LayerCountOrNone = 0
    """Multi-token prediction modules; recorded, not counted in `parameters`, as is custom."""

    @field_validator("name", "source", "notes")
    @classmethod
    def _printable(cls, text: str) -> str:
        if any(ord(c) < 32 and c not in "\n\t" for c in text):
            raise ValueError("control characters are not allowed")
        return text

    @model_validator(mode="after")
    def _check_attention(self) -> Self:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % kv_heads:
            raise ValueError(f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({kv_heads})")
        if "head_dim" not in self.model_fields_set and not self.is_mla and self.hidden_size % heads:
            raise ValueError(f"num_attention_heads ({heads}) does not divide hidden_size: give head_dim")
        dims = self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim
        if self.is_mla and not all(dims):
            raise ValueError("latent attention (kv_lora_rank) needs qk_nope_head_dim, qk_rope_head_dim and v_head_dim")
        if not self.is_mla and (any(dims) or self.q_lora_rank):
            raise ValueError("q_lora_rank, qk_nope_head_dim, qk_rope_head_dim and v_head_dim need kv_lora_rank")
        if self.sliding_window is None and (self.sliding_window_every > 1 or self.full_attention_every):
            raise ValueError("sliding_window_every and full_attention_every need sliding_window")
        if self.sliding_window_every > 1 and self.full_attention_every:
            raise ValueError("give sliding_window_every or full_attention_every, not both")
        return self

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        experts, top_k = self.num_experts, self.num_experts_per_tok
        if experts is None:
            for field in ("num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace"):
                if getattr(self, field):
                    raise ValueError(f"{field} is set, but num_experts is not: a dense model has no experts")
        elif not 0 < top_k <= experts:
            raise ValueError(f"num_experts_per_tok ({top_k}) must be between 1 and num_experts ({experts})")
        elif not self.moe_intermediate_size:
            raise ValueError("a MoE model needs moe_intermediate_size (or intermediate_size, as wide as an expert)")
        elif not self.num_moe_layers:
            raise ValueError("num_experts is set, but first_k_dense_replace and moe_every leave no MoE layer")
        elif self.num_moe_layers % self.experts_shared_layers:
            raise ValueError(f"experts_shared_layers must divide the number of MoE layers ({self.num_moe_layers})")
        elif self.n_group and (experts % self.n_group or (self.topk_group or 1) > self.n_group):
            raise ValueError(f"n_group ({self.n_group}) must divide num_experts ({experts}) and be at least topk_group")
        return self

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if self.peer and max(self.peer.layers) >= self.num_hidden_layers:
            raise ValueError(f"peer.layers must lie between 0 and {self.num_hidden_layers - 1}")
        if not self.intermediate_size and "dense" in self.layer_kinds + self.encoder_layer_kinds:
            raise ValueError("intermediate_size is needed: some layers are dense")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A checked copy with some fields replaced; pydantic's own would keep stale derived values."""
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **(update or {})})

    @property
    def is_moe(self) -> bool:
        """Whether some layers have routed experts."""
        return self.num_experts is not None

    @property
    def is_mla(self) -> bool:
        """Whether attention is latent (compressed keys and values)."""
        return self.kv_lora_rank is not None

    @cached_property
    def attention_kind(self) -> Literal["mha", "gqa", "mqa", "mla"]:
        """Multi-head, grouped-query, multi-query or latent attention."""
        if self.is_mla:
            return "mla"
        if self.num_key_value_heads == self.num_attention_heads:
            return "mha"
        return "mqa" if self.num_key_value_heads == 1 else "gqa"

    @cached_property
    def layer_kinds(self) -> Layers:
        """The feed-forward network of each decoder layer."""
        kinds = list(self._pattern(self.num_hidden_layers))
        for layer in self.peer.layers if self.peer else ():
            kinds[layer] = "peer"
        return tuple(kinds)

    @cached_property
    def encoder_layer_kinds(self) -> Layers:
        """The feed-forward network of each encoder layer; empty for a decoder-only model."""
        return self._pattern(self.num_encoder_layers)

    def _pattern(self, layers: int) -> Layers:
        def kind(layer: int) -> LayerKind:
            sparse = self.is_moe and layer >= self.first_k_dense_replace and (layer + 1) % self.moe_every == 0
            return "moe" if sparse else "dense"

        return tuple(kind(layer) for layer in range(layers))

    @cached_property
    def num_moe_layers(self) -> int:
        """MoE layers of decoder and encoder together."""
        return (self.layer_kinds + self.encoder_layer_kinds).count("moe")

    @cached_property
    def attention_windows(self) -> tuple[int | None, ...]:
        """Per decoder layer the tokens it looks back on; None where it sees the whole context."""

        def slides(layer: int) -> bool:
            if self.full_attention_every:
                return (layer + 1) % self.full_attention_every != 0
            return layer % self.sliding_window_every == 0

        return tuple(self.sliding_window if slides(i) else None for i in range(self.num_hidden_layers))

    @property
    def qk_dim(self) -> int:
        """Width of one head's query and key in the score product."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim if self.is_mla else self.head_dim

    @property
    def v_dim(self) -> int:
        """Width of one head's value."""
        return self.v_head_dim if self.is_mla else self.head_dim

    @property
    def q_dim(self) -> int:
        """Width of all queries of a token."""
        return self.num_attention_heads * self.qk_dim

    @property
    def kv_dim(self) -> int:
        """Width of all keys of a token (and of its values, but with latent attention)."""
        return self.num_key_value_heads * self.qk_dim

    @property
    def kv_cache_width(self) -> int:
        """Elements a token leaves in the cache per layer: keys and values, or the latent and the rotary key."""
        if self.kv_lora_rank is not None:
            return self.kv_lora_rank + self.qk_rope_head_dim
        return 2 * self.kv_dim

    @cached_property
    def parameters(self) -> int:
        """Every weight, norms and routers included."""
        return counts.total_parameters(self)

    @cached_property
    def active_parameters(self) -> int:
        """All weights but those of experts a token does not reach."""
        return counts.active_parameters(self)


def _head_dim(data: dict[str, Any]) -> int:
    """The usual width; fields that failed their own check are absent from `data`."""
    if data.get("kv_lora_rank"):
        return int(data.get("qk_nope_head_dim", 0) + data.get("qk_rope_head_dim", 0))
    return max(1, int(data.get("hidden_size", 0) // data.get("num_attention_heads", 1)))


def resolve_model(value: str | Mapping[str, Any]) -> ModelSpec:
    """The model that `value` describes.

    A catalog name; a path that ends in .yaml or .yml, or in .json for a Hugging Face config.json; or a mapping of
    fields, where `extends` names another model by either and the other keys replace its fields. Raises SpecError.
    """
    return _resolve(value, ())


def _resolve(value: object, chain: tuple[str, ...]) -> ModelSpec:
    if isinstance(value, Mapping):
        try:
            return _from_fields(Document(dict(value), {}, "", ""), "", chain)
        except SpecError as error:
            raise error if error.file else SpecError(error.message, path=error.path) from None
    if not isinstance(value, str):
        raise SpecError(f"expected a model's name, a path or a mapping of fields, got {str(value)[:80]}")
    if value.endswith(".json"):
        fields = read_config(value)
        return _from_fields(Document(fields, {}, value, ""), fields["name"], chain)
    if value.endswith((".yaml", ".yml")):
        return _from_fields(read_document(value), Path(value).stem, (*chain, str(Path(value).resolve())))
    return _from_catalog(value)


@lru_cache(maxsize=1024)
def _from_catalog(name: str) -> ModelSpec:
    return _from_fields(read_catalog("model", name), name, ())


def _from_fields(document: Document, name: str, chain: tuple[str, ...]) -> ModelSpec:
    """The model of `document`, on top of the one it extends; `chain` holds the files that led here."""
    own = {key: value for key, value in document.data.items() if key != "extends"}
    if "extends" not in document.data:
        return _validated({"name": name, **own} if name else own, document)
    parent = document.data["extends"]
    if not isinstance(parent, str):
        raise document.error("expected a model's name or a path", ("extends",))
    if str(Path(parent).resolve()) in chain:
        raise document.error("the files extend each other in a circle", ("extends",))
    try:
        base = _resolve(parent, chain)
    except SpecError as error:
        raise error if error.file else document.error(error.message, ("extends",)) from None
    model = _validated({**base.model_dump(exclude_unset=True), **own}, document)
    if "name" in own:
        return model
    if name:
        return model.model_copy(update={"name": name})
    changed = [f"{key}={own[key]}" for key in own if getattr(model, key) != getattr(base, key)]
    if not changed:
        return base
    suffix = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
    return model.model_copy(update={"name": f"{base.name} with {suffix}"[:200]})


def _validated(fields: dict[str, Any], document: Document) -> ModelSpec:
    try:
        return ModelSpec.model_validate(fields)
    except ValidationError as error:
        raise first_error(error, ModelSpec, document) from None
