"""How ranks split the work: group sizes, where groups lie in the machine, and what does not divide.

Megatron's order: tensor ranks are neighbours, then context, (expert,) data, and pipeline ranks lie farthest apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from simulator.errors import InfeasibleError
from simulator.graph.operator import Group
from simulator.graph.order import CUTTING, PAIRING
from simulator.spec.run import Run, with_field
from simulator.spec.settings import Settings, resolve_settings, stated


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of every group of a run, and the tokens and micro-batches of one rank."""

    gpus: int
    tp: int
    pp: int
    vpp: int
    cp: int
    dp: int
    ep: int
    etp: int
    edp: int
    """Replicas of an expert."""
    domain: int
    """GPUs that share a scale-up domain."""
    micro_batch: int
    micro_batches: int
    seq: int
    settings: Settings
    schedule: str = "1f1b"
    expert_copies: float = 1.0
    """Copies of an expert on the ranks of an expert group, on average."""

    @property
    def tokens(self) -> float:
        """Tokens of one micro-batch on one rank before tensor parallelism."""
        return self.micro_batch * self.seq / self.cp

    @property
    def sequence_split(self) -> int:
        """By how much elementwise operators and stored activations outside tensor-parallel regions are divided."""
        return self.tp if self.settings.sequence_parallel else 1

    def group(self, size: int, stride: int) -> Group:
        """The group of `size` ranks that lie `stride` apart. Domains hold a power-of-two-like share of it."""
        return _group(size, max(1, self.domain // stride))

    @property
    def tensor_group(self) -> Group:
        return self.group(self.tp, 1)

    @property
    def context_group(self) -> Group:
        return self.group(self.cp, self.tp)

    @property
    def data_group(self) -> Group:
        """Ranks that hold the same dense parameters: data and context parallel together."""
        return self._with_mirror(self.group(self.dp * self.cp, self.tp))

    @property
    def expert_group(self) -> Group:
        return self.group(self.ep, self.etp)

    @property
    def expert_tensor_group(self) -> Group:
        return self.group(self.etp, 1)

    @property
    def expert_data_group(self) -> Group:
        return self._with_mirror(self.group(self.edp, self.etp * self.ep))

    @property
    def parts_held(self) -> int:
        """Parts of the model's `pp` that a rank holds: with DualPipe its own and that of the mirrored rank."""
        return 2 if self.schedule in PAIRING else 1

    def _with_mirror(self, group: Group) -> Group:
        """The ranks of a group and, where there is one, of the mirrored stage, which lies in other domains."""
        parts = self.parts_held
        return Group(group.size * parts, group.per_domain * (parts if self.gpus <= self.domain else 1))


@lru_cache(maxsize=4096)
def _group(size: int, in_domain: int) -> Group:
    """The group of `size` ranks of which a domain can hold `in_domain`: as many as fit and divide it."""
    fit = min(size, in_domain)
    while size % fit:
        fit -= 1
    return Group(size, fit)


def build_layout(run: Run, *, advise: bool = True) -> Layout:
    """The layout of a run. Raises InfeasibleError with the rule, the values and, to advise, the nearest that works."""
    try:
        return _layout(run)
    except InfeasibleError as error:
        if not advise:
            raise
        raise InfeasibleError(
            error.message,
            path=error.path,
            needed=error.needed,
            available=error.available,
            suggestion=_nearest_division(run, error.path or ""),
        ) from None


def _layout(run: Run) -> Layout:
    split, model, settings = run.parallelism, run.model, resolve_settings(run)
    gpus = run.hardware.gpus
    heads, layers = model.num_attention_heads, model.num_encoder_layers + model.num_hidden_layers
    if heads % split.tp:
        raise InfeasibleError(f"tp {split.tp} must divide num_attention_heads {heads}", path="parallelism.tp")
    if split.tp > gpus:
        raise InfeasibleError(f"tp {split.tp} needs more than the {gpus} GPUs there are", path="parallelism.tp")
    cell = split.tp * split.pp * split.cp
    if gpus % cell:
        raise InfeasibleError(
            f"tp x pp x cp = {split.tp} x {split.pp} x {split.cp} = {cell} must divide hardware.gpus = {gpus}",
            path="parallelism",
            needed=float(cell),
            available=float(gpus),
        )
    dp = gpus // cell
    schedule = run.training.schedule if run.training else "1f1b"
    chunks = split.pp * split.vpp
    if chunks > layers and not (run.defaults.pads_uneven_pipeline and chunks == layers + 2):
        raise InfeasibleError(
            f"pp x vpp = {split.pp} x {split.vpp} chunks need as many layers; the model has {layers}",
            path="parallelism.vpp" if split.vpp > 1 else "parallelism.pp",
        )
    ep, etp, edp = _expert_split(run, settings)
    micro_batch, micro_batches, seq = _batch(run, dp)
    if split.vpp > 1 and micro_batches % split.pp:
        raise InfeasibleError(
            f"interleaving (vpp {split.vpp}) needs micro-batches that pp {split.pp} divides; there are {micro_batches}",
            path="parallelism.vpp",
        )
    if schedule in CUTTING:
        _check_cut(run, schedule, micro_batches, settings)
    return Layout(
        gpus=gpus,
        tp=split.tp,
        pp=split.pp,
        vpp=split.vpp,
        cp=split.cp,
        dp=dp,
        ep=ep,
        etp=etp,
        edp=edp,
        domain=run.hardware.scale_up_domain,
        micro_batch=micro_batch,
        micro_batches=micro_batches,
        seq=seq,
        settings=settings,
        schedule=schedule,
        expert_copies=_expert_copies(run),
    )


def _expert_copies(run: Run) -> float:
    """Copies of an expert, mean over experts. Raises InfeasibleError where copies can't be held or kept alike."""
    redundant, experts, ep = run.routing.redundant_experts, run.model.num_experts, run.parallelism.ep
    if not redundant:
        return 1.0
    path = "routing.redundant_experts"
    if not experts:
        raise InfeasibleError(f"redundant_experts needs experts; {run.model.name} has none", path=path)
    if run.training is not None:
        raise InfeasibleError(
            "redundant_experts is for inference and serving: in training the gradients of all copies would have to be"
            " summed in every step",
            path=path,
        )
    if ep == 1:
        raise InfeasibleError("redundant_experts needs ep above 1: one rank holds every expert anyway", path=path)
    if (experts + redundant) % ep:
        raise InfeasibleError(f"ep {ep} must divide the {experts} experts and {redundant} copies", path=path)
    return (experts + redundant) / experts


def _check_cut(run: Run, schedule: str, micro_batches: int, settings: Settings) -> None:
    """Raises InfeasibleError where a schedule that cuts backward passes can't run."""
    split = run.parallelism
    path = "training.schedule"
    if split.pp == 1:
        raise InfeasibleError(f"schedule {schedule} needs pp above 1: one stage has no bubble to fill", path=path)
    if split.vpp > 1:
        what = "one chunk a stage" if schedule == "zb-h1" else "its own two chunks a rank"
        raise InfeasibleError(f"schedule {schedule} has {what}, so vpp must be 1; it is {split.vpp}", path=path)
    if schedule not in PAIRING:
        return
    if split.pp % 2:
        raise InfeasibleError(
            f"schedule {schedule} mirrors its stages, so pp must be even; it is {split.pp}", path=path
        )
    if micro_batches % 2 or micro_batches < 2 * split.pp:
        raise InfeasibleError(
            f"schedule {schedule} feeds micro-batches from both ends, so their number must be even and at least"
            f" 2 x pp = {2 * split.pp}; there are {micro_batches}",
            path=path,
        )
    if settings.sharding in ("zero2", "zero3"):
        raise InfeasibleError(
            f"schedule {schedule} keeps parameters and gradients of both directions whole, so sharding must be none or"
            f" zero1; it is {settings.sharding}",
            path=path,
        )


def _expert_split(run: Run, settings: Settings) -> tuple[int, int, int]:
    split, model = run.parallelism, run.model
    stage_gpus = run.hardware.gpus // split.pp
    experts = model.peer.num_experts if model.peer is not None else model.num_experts
    if not experts:
        if split.ep > 1:
            raise InfeasibleError(f"ep {split.ep} needs experts; {model.name} has none", path="parallelism.ep")
        return 1, settings.etp, max(1, stage_gpus // settings.etp)
    if experts % split.ep and not run.routing.redundant_experts:
        raise InfeasibleError(
            f"ep {split.ep} must divide the {experts} experts",
            path="parallelism.ep",
        )
    width = model.moe_intermediate_size or 0
    if width and width % settings.etp:
        raise InfeasibleError(f"etp {settings.etp} must divide moe_intermediate_size {width}", path="parallelism.etp")
    if stage_gpus % (split.ep * settings.etp):
        raise InfeasibleError(
            f"ep x etp = {split.ep} x {settings.etp} must divide the {stage_gpus} GPUs of a pipeline stage",
            path="parallelism.ep",
        )
    return split.ep, settings.etp, stage_gpus // (split.ep * settings.etp)


def _batch(run: Run, dp: int) -> tuple[int, int, int]:
    """(sequences of a micro-batch, micro-batches, tokens of a sequence)."""
    if run.training is not None:
        work = run.training
        step = dp * work.micro_batch
        if work.global_batch % step:
            raise InfeasibleError(
                f"global_batch {work.global_batch} must be a multiple of dp x micro_batch = {dp} x {work.micro_batch}",
                path="training.global_batch",
            )
        if work.seq_len % run.parallelism.cp:
            raise InfeasibleError(f"cp {run.parallelism.cp} must divide seq_len {work.seq_len}", path="parallelism.cp")
        return work.micro_batch, work.global_batch // step, work.seq_len
    assert run.inference is not None
    return -(-run.inference.in_flight // dp), 1, run.inference.isl


def _nearest_division(run: Run, path: str) -> str | None:
    """`path: value` with the nearest smaller value (of a batch, the nearest) for which the whole run divides."""
    for value in _candidates(run, path):
        try:
            _layout(with_field(run, path, value))
        except (InfeasibleError, ValueError):
            continue
        return f"{path}: {value}"
    return None


def _candidates(run: Run, path: str) -> Iterable[int | str]:
    split, gpus = run.parallelism, run.hardware.gpus
    match path:
        case "training.global_batch":
            assert run.training is not None
            batch, cell = run.training.global_batch, split.tp * split.pp * split.cp
            step = gpus // cell * run.training.micro_batch * (split.pp if split.vpp > 1 else 1)
            return sorted((batch // step * step or step, batch // step * step + step), key=lambda n: abs(n - batch))
        case "parallelism.vpp":
            return range(min(split.vpp, run.model.num_hidden_layers) - 1, 0, -1)
        case "parallelism":
            return ()
        case "training.schedule":
            return ("1f1b",)
        case "routing.redundant_experts":
            redundant, ep = run.routing.redundant_experts, split.ep
            return () if run.training is not None else (-(-redundant // ep) * ep, redundant // ep * ep)
        case _:
            now = stated(getattr(split, path.removeprefix("parallelism.")), split.tp)
            return [d for d in range(min(now, gpus + 1) - 1, 0, -1) if gpus % d == 0]


def split_layers(layers: int, pp: int, vpp: int, pads: bool) -> list[list[range]]:
    """Layer indices of chunk `[stage][chunk]`. Chunk c of stage s is the (c pp + s)-th in the model's order.

    Where the layers do not divide but layers + 2 do and the stack `pads`, the embedding and the loss count as one layer
    each (Megatron's account_for_embedding/loss_in_pipeline_split); otherwise the first chunks take one more.
    """
    chunks = pp * vpp
    sizes = [layers // chunks + (i < layers % chunks) for i in range(chunks)]
    if layers % chunks and (layers + 2) % chunks == 0 and pads:
        sizes = [(layers + 2) // chunks] * chunks
        sizes[0] -= 1
        sizes[-1] -= 1
    starts = [sum(sizes[:i]) for i in range(chunks)]
    order = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return [[order[c * pp + s] for c in range(vpp)] for s in range(pp)]
