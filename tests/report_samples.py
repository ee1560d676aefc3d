"""Results for the tests of the report: invented ones that add up, ordinary and odd, and real ones with their links."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from simulator import read_run, simulate
from simulator.result import (
    Assumption,
    BasisRow,
    BreakdownItem,
    Chunk,
    Communication,
    Energy,
    Exposure,
    Infeasible,
    Latency,
    Lever,
    Link,
    LoadSample,
    Matrix,
    Memory,
    Number,
    OperatorRow,
    Precedent,
    Price,
    Provenance,
    Requests,
    RequestSpan,
    Result,
    Span,
    StageMemory,
    Summary,
    Timeline,
    Traffic,
)
from simulator.spec.base import data_root

# One layer forward: stream, operator, colour, milliseconds, key of the breakdown. Backward takes twice as long.
LAYER = (
    ("Compute", "RMSNorm and router", "mem", 0.10, "norms"),
    ("Compute", "attention projections", "dense", 0.22, "projections"),
    ("Compute", "attention core", "dense", 0.13, "attention"),
    ("NVLink", "dispatch", "a2a", 0.06, "all_to_all"),
    ("Compute", "expert GEMMs", "expert", 1.62, "experts"),
    ("NVLink", "combine", "a2a", 0.06, "all_to_all"),
    ("Compute", "SwiGLU and unpermute", "mem", 0.21, "norms"),
)
DENSE_LAYER = (
    *(op for op in LAYER if op[2] not in ("expert", "a2a")),
    ("Compute", "MLP GEMMs", "dense", 1.10, "mlp"),
)
HOST_GAP_MS = 0.07
SEND_MS, GRADIENTS_MS, OPTIMIZER_MS = 0.72, 30.0, 32.0
LABELS = {
    "experts": ("Expert GEMMs", "computing", "expert"),
    "mlp": ("MLP GEMMs", "computing", "dense"),
    "projections": ("Attention projections", "computing", "dense"),
    "attention": ("Attention core", "computing", "dense"),
    "norms": ("Norms, router, permute, SwiGLU", "computing", "mem"),
    "optimizer": ("Optimizer", "computing", "mem"),
    "all_to_all": ("All-to-all (dispatch and combine)", "communicating", "a2a"),
    "send": ("Pipeline send and receive", "communicating", "comm"),
    "gradients": ("Gradient reduce-scatter", "communicating", "comm"),
    "bubble": ("Pipeline fill and drain", "waiting", "wait"),
    "uneven": ("Uneven stages and experts", "waiting", "wait"),
    "host": ("Kernel launch gaps", "host", "host"),
}
RUN_FILE = """\
name: mixtral-8x7b-64xh100
kind: training
model: mixtral-8x7b
hardware: {device: h100-sxm, gpus: 64, network: ib-ndr400-rail}
parallelism: {tp: 1, pp: 4, ep: 8}
training: {global_batch: 256, seq_len: 4096, precision: bf16, tokens: 2.0e12}
"""


def near(value: float, spread: float = 0.08, basis: Any = "interpolated") -> Number:
    """A number with an interval of so much on either side, a little longer upwards."""
    return Number(value=value, low=value * (1 - spread), high=value * (1 + 1.1 * spread), basis=basis)


def _block(layer: tuple[tuple[str, str, str, float, str], ...], factor: float, layers: int) -> list[Span]:
    spans, now = [], 0.0
    for _ in range(layers):
        for stream, name, color, length, _key in layer:
            end = now + factor * length / 1e3
            spans.append(Span(stream=stream, name=name, color=color, start_s=now, end_s=end))
            now = end
        spans.append(Span(stream="Host", name="launch", color="host", start_s=now, end_s=now + HOST_GAP_MS / 1e3))
        now += HOST_GAP_MS / 1e3
    spans.append(Span(stream="InfiniBand", name="send", color="comm", start_s=now, end_s=now + SEND_MS / 1e3))
    return spans


def _order(stage: int, stages: int, micro_batches: int) -> list[tuple[str, int]]:
    """1F1B: some forwards to fill, then one of each, then the rest of the backwards."""
    warm = min(stages - stage, micro_batches)
    order = [("forward", m) for m in range(warm)]
    for m in range(micro_batches):
        order.append(("backward", m))
        if warm + m < micro_batches:
            order.append(("forward", warm + m))
    return order


def _schedule(stages: int, micro_batches: int, lengths: dict[str, float]) -> list[Chunk]:
    """Start times by relaxation until nothing moves: a chunk waits for its stage and for its neighbour's chunk."""
    ends: dict[tuple[str, int, int], float] = {}
    orders = [_order(s, stages, micro_batches) for s in range(stages)]
    at, clock, chunks = [0] * stages, [0.0] * stages, []
    while any(at[s] < len(orders[s]) for s in range(stages)):
        for s in range(stages):
            while at[s] < len(orders[s]):
                phase, m = orders[s][at[s]]
                behind = s - 1 if phase == "forward" else s + 1
                need = (phase, behind, m) if 0 <= behind < stages else None
                if need is not None and need not in ends:
                    break
                start = max(clock[s], ends.get(need, 0.0) if need else 0.0)
                clock[s] = ends[phase, s, m] = start + lengths[phase]
                chunks.append(Chunk(stage=s, start_s=start, end_s=clock[s], phase=phase, micro_batch=m, chunk=0))
                at[s] += 1
    return chunks


def timeline(*, stages: int = 4, micro_batches: int = 32, dense: bool = False, layers: int = 8) -> Timeline:
    layer = DENSE_LAYER if dense else LAYER
    factors = {"forward": 1.0, "backward": 2.0}
    blocks = {f"{s}/{p}/0": _block(layer, f, layers) for s in range(stages) for p, f in factors.items()}
    lengths = {p: max(s.end_s for s in blocks[f"0/{p}/0"] if s.stream != "InfiniBand") for p in factors}
    chunks = _schedule(stages, micro_batches, lengths)
    drained = max(c.end_s for c in chunks)
    for s in range(stages):
        middle, end = drained + GRADIENTS_MS / 1e3, drained + (GRADIENTS_MS + OPTIMIZER_MS) / 1e3
        last = {"stage": s, "micro_batch": 0, "chunk": 0}
        chunks.append(Chunk(**last, start_s=drained, end_s=middle, phase="gradients"))
        chunks.append(Chunk(**last, start_s=middle, end_s=end, phase="optimizer"))
        blocks[f"{s}/gradients/0"] = [
            Span(stream="InfiniBand", name="reduce-scatter", color="comm", start_s=0, end_s=GRADIENTS_MS / 1e3)
        ]
        blocks[f"{s}/optimizer/0"] = [
            Span(stream="Compute", name="optimizer", color="mem", start_s=0, end_s=OPTIMIZER_MS / 1e3)
        ]
    shares = {key: _shares(spans) for key, spans in blocks.items()}
    return Timeline(stages=stages, duration_s=max(c.end_s for c in chunks), chunks=chunks, blocks=blocks, shares=shares)


def _shares(spans: list[Span]) -> dict[str, float]:
    counted = [s for s in spans if s.name != "send"]
    length = max(s.end_s for s in counted)
    colors = sorted({s.color for s in counted})
    return {c: sum(s.end_s - s.start_s for s in counted if s.color == c) / length for c in colors}


def breakdown(line: Timeline, *, dense: bool = False, layers: int = 8) -> list[BreakdownItem]:
    """What the timeline holds, mean over its stages; what is left is waiting."""
    forwards = sum(c.phase == "forward" for c in line.chunks) / line.stages
    seconds: dict[str, float] = {}
    for _, _, _, length, key in DENSE_LAYER if dense else LAYER:
        seconds[key] = seconds.get(key, 0.0) + 3 * forwards * layers * length / 1e3
    seconds["host"] = 2 * forwards * layers * HOST_GAP_MS / 1e3
    seconds |= {"gradients": GRADIENTS_MS / 1e3, "optimizer": OPTIMIZER_MS / 1e3}
    waiting = line.duration_s - sum(seconds.values())
    hidden = {"send": 2 * forwards * SEND_MS / 1e3, "gradients": 0.08}
    if line.stages > 1:
        seconds |= {"send": 0.0, "bubble": 0.9 * waiting, "uneven": 0.1 * waiting}
    return [
        BreakdownItem(
            key=key,
            label=LABELS[key][0],
            group=LABELS[key][1],
            color=LABELS[key][2],
            seconds=near(seconds[key], 0.4 if key == "host" else 0.08),
            hidden_s=hidden.get(key, 0.0),
        )
        for key in LABELS
        if key in seconds
    ]


def summary(**changes: Any) -> Summary:
    fields: dict[str, Any] = {
        "model": "Mixtral 8x7B",
        "parameters": 46_702_792_704,
        "active_parameters": 12_879_925_248,
        "device": "H100",
        "gpus": 64,
        "network": "ib-ndr400-rail",
        "gpus_per_node": 8,
        "scale_up_domain": 8,
        "capacity_gib": 80.0,
        "allocatable_gib": 79.1,
        "precision": "bf16",
        "peak_flops_per_s": 989e12,
        "memory_bandwidth_bytes_per_s": 3.35e12,
        "tokens": 2e12,
        "parallelism": {"tp": 1, "pp": 4, "ep": 8, "dp": 16},
        "flops_accounting": "Causal attention is counted once, as the work done.",
        "gpu_hour_usd": 2.95,
    }
    return Summary(**fields | changes)


MEMORY = {
    "parameters": 3.49,
    "gradients": 6.98,
    "optimizer_states": 8.13,
    "activations": 27.5,
    "buffers": 2.6,
    "framework": 3.4,
}


def memory(parts: dict[str, float]) -> Memory:
    basis = {"activations": "interpolated", "buffers": "interpolated", "framework": "measured"}
    spread = {"activations": 0.08, "buffers": 0.2, "framework": 0.1}
    zero = dict.fromkeys(Memory.model_fields, 0.0)
    return Memory(**{k: near(v, spread.get(k, 0.0), basis.get(k, "exact")) for k, v in (zero | parts).items()})


def stage_memory(stages: int, parts: dict[str, float]) -> list[StageMemory]:
    rows = []
    for s in range(stages):
        here = parts | {"activations": parts["activations"] * (1 - 0.04 * min(s, 8))}
        label = {0: "embedding, fullest", stages - 1: "logits"}.get(s, "")
        rows.append(
            StageMemory(
                stage=s, label=label, parts=here, total=near(sum(here.values()), 0.05), peak_moment="first backward"
            )
        )
    return rows


# Name, colour, FLOP, bytes, seconds as a share of the step, bound.
OPERATORS = (
    ("Expert GEMMs", "expert", 8.0e14, 3.5e11, 0.58, "compute"),
    ("Attention projections", "dense", 1.0e14, 6.9e10, 0.079, "compute"),
    ("Attention core", "dense", 4.3e13, 2.6e10, 0.047, "compute"),
    ("Logits and loss", "dense", 9e12, 5e9, 0.007, "compute"),
    ("SwiGLU", "mem", 2.1e11, 2.5e11, 0.042, "memory"),
    ("RMSNorm", "mem", 1.7e11, 1.2e11, 0.022, "memory"),
    ("Router", "mem", 3.6e11, 4.5e10, 0.009, "memory"),
    ("Permute", "mem", 0.0, 2.2e11, 0.044, "memory"),
    ("Optimizer", "mem", 3.8e10, 6.6e10, 0.011, "memory"),
    ("Dispatch and combine", "a2a", 0.0, 3.0e10, 0.043, "network"),
)


def operators(step: float, *, dense: bool = False) -> list[OperatorRow]:
    return [
        OperatorRow(
            name=name,
            color=color,
            calls=1024,
            flops=flops,
            bytes=size,
            seconds=share * step,
            relative_error=0.08,
            bound=bound,
            share_of_step=share,
            basis="interpolated",
            source="H100 SXM, CUDA 12.6, 2025-03",
        )
        for name, color, flops, size, share, bound in OPERATORS
        if not (dense and color in ("expert", "a2a"))
    ]


def traffic(nodes: int, *, stages: int = 4, dense: bool = False) -> Traffic:
    skew = (1.04, 0.95, 0.97, 0.99, 0.94, 1.09, 1.02, 1.0)
    inside = [[0.0 if a == b or dense else 4.3e9 * skew[b] for b in range(8)] for a in range(8)]
    between = [[0.0] * nodes for _ in range(nodes)]
    for a in range(nodes - 1):
        between[a][a + 1] = between[a + 1][a] = 34.4e9 if stages > 1 else 8e9
    return Traffic(
        in_node=Matrix(labels=[str(i) for i in range(8)], bytes=inside),
        between_nodes=Matrix(labels=[str(i) for i in range(nodes)], bytes=between),
        links=[
            Link(name="NVLink, per GPU", bandwidth_bytes_per_s=450e9, bytes=30.1e9, busy_s=0.128, utilisation=0.023),
            Link(
                name="InfiniBand rail, per GPU",
                bandwidth_bytes_per_s=50e9,
                bytes=14.1e9,
                busy_s=0.336,
                utilisation=0.095,
            ),
        ],
        note="Nodes 0 and 1 hold stage 0, nodes 2 and 3 stage 1, and so on.",
    )


def levers(step: float, cost: float) -> list[Lever]:
    def lever(kind: Any, label: str, path: str, change: str, share: float, color: Any, spread: float = 0.4) -> Lever:
        low, high = sorted((share * (1 - spread), share * (1 + spread)))
        return Lever(
            kind=kind,
            label=label,
            path=path,
            change=change,
            step_time_s=Number(value=share * step, low=low * step, high=high * step, basis="interpolated"),
            cost_usd=Number(value=share * cost, low=low * cost, high=high * cost, basis="interpolated"),
            feasible=True,
            color=color,
        )

    return [
        lever("hardware", "Tensor cores +10 %", "hardware.device.peak", "989 to 1,088 TFLOP/s", -0.059, "expert"),
        lever("hardware", "HBM bandwidth +10 %", "hardware.device.bandwidth", "3.35 to 3.69 TB/s", -0.013, "mem"),
        lever("hardware", "NVLink +10 %", "hardware.node.bandwidth", "450 to 495 GB/s", -0.004, "a2a"),
        lever("hardware", "InfiniBand +10 %", "hardware.network.bandwidth", "400 to 440 Gb/s", -0.001, "comm", 1.5),
        lever("run", "FP8 expert GEMMs", "training.precision", "fp8", -0.212, "expert"),
        lever("run", "CUDA graphs", "execution.cuda_graph", "full", -0.024, "host"),
        lever("run", "Tensor parallel 2", "parallelism.tp", "2", 0.046, "comm"),
        Lever(
            kind="run",
            label="Pipeline parallel 3",
            path="parallelism.pp",
            change="3",
            step_time_s=Number.exact(0.0),
            cost_usd=None,
            feasible=False,
            reason="32 layers do not divide into 3 stages",
        ),
    ]


def sources() -> dict[str, Any]:
    rows = (
        ("Grouped GEMM", 0.58, "interpolated", 1284, 0.041, "H100 SXM, CUDA 12.6, 2025-03"),
        ("Attention core", 0.05, "measured", 388, 0.027, "H100 SXM, FlashAttention 3, 2025-02"),
        ("HBM-bound", 0.13, "interpolated", 912, 0.068, "H100 SXM, CUDA 12.6, 2025-03"),
        ("All-to-all, NVLink", 0.04, "extrapolated", 64, 0.17, "8 × H100, NCCL 2.23, to 32 MB"),
        ("Launch gaps", 0.03, "datasheet", 0, 0.6, "one constant for megatron-core"),
    )
    runs = (
        ("Mixtral 8x7B, 64 × H100", 1.03, 0.93, 1.13),
        ("Mixtral 8x22B, 128 × H100", 0.96, 0.87, 1.06),
        ("Qwen2 57B-A14B, 64 × H100", 0.91, 0.83, 1.03),
        ("GPT-3 175B, 128 × H100", 0.89, 0.84, 0.97),
    )
    return {
        "basis": [
            BasisRow(kind=k, share_of_step=s, basis=b, measurements=n, relative_error=e, source=src)
            for k, s, b, n, e, src in rows
        ],
        "assumptions": [
            Assumption(
                name="Availability",
                value="no failures, restarts or checkpoints",
                path=None,
                stated_by="default",
                influence="At 90 %: 1.11 times the days and the cost",
                source="",
            ),
            Assumption(
                name="Routing skew",
                value="zipf(0.2)",
                path="routing.balance",
                stated_by="run file",
                influence="Uniform: −1.2 % step time",
                source="",
            ),
            Assumption(
                name="All-to-all overlap",
                value="none",
                path="execution.a2a_overlap",
                stated_by="framework",
                influence=None,
                source="megatron-core",
            ),
        ],
        "precedents": [
            Precedent(name=n, source="published table", ratio=r, low=low, high=high, distance=float(i))
            for i, (n, r, low, high) in enumerate(runs)
        ],
        "not_modelled": ["stragglers", "thermal throttling", "data loading"],
    }


def provenance() -> Provenance:
    return Provenance(
        version="0.1.0",
        engine="fast",
        certificate="certified: no two transfers share a link",
        profile="h100-sxm 2025-03-14",
        created="2025-06-12",
        seconds_to_simulate=0.018,
    )


def training(*, gpus: int = 64, stages: int = 4, dense: bool = False, **changes: Any) -> Result:
    """The ordinary training run; `changes` replace fields of the Result."""
    line = timeline(stages=stages, dense=dense)
    items = breakdown(line, dense=dense)
    step, gpu_days = line.duration_s, 2e12 / (256 * 4096) * line.duration_s / 86400
    rate, cost = 256 * 4096 / step, gpu_days * gpus * 24 * 2.95
    joules = {"compute": 62.8e3, "memory": 26.1e3, "network": 12.2e3, "static": 64.3e3, "facility": 33.1e3}
    meter = sum(joules.values()) * gpu_days * 86400 / step
    zero = Exposure(total=Number.exact(0), exposed=Number.exact(0))
    a2a = near(next((i.seconds.value for i in items if i.key == "all_to_all"), 0.0), 0.2, "extrapolated")
    fields: dict[str, Any] = {
        "name": "mixtral-8x7b-64xh100",
        "kind": "training",
        "summary": summary(gpus=gpus) if not dense else summary(gpus=gpus, model="Llama 3.1 8B"),
        "step_time_s": near(step),
        "tokens_per_s": near(rate),
        "tokens_per_s_per_gpu": near(rate / gpus),
        "mfu": near(0.445),
        "model_flops_per_gpu": Number.exact(1.31e15),
        "hardware_flops_per_gpu": Number.exact(1.34e15),
        "peak_memory_gib": near(sum(MEMORY.values()), 0.05),
        "memory_gib": memory(MEMORY),
        "communication_s": Communication(
            all_to_all=zero if dense else Exposure(total=a2a, exposed=a2a),
            all_reduce=zero,
            all_gather=zero,
            reduce_scatter=Exposure(total=near(0.11, 0.2, "transferred"), exposed=near(0.03, 0.2, "transferred")),
            send_recv=zero if stages == 1 else Exposure(total=near(0.046), exposed=Number.exact(0)),
        ),
        "all_to_all_bytes_per_gpu": Number.exact(0 if dense else 30.1e9),
        "energy_j": Energy(**{key: near(value, 0.15, "extrapolated") for key, value in joules.items()}),
        "energy_total_j": near(meter, 0.13, "extrapolated"),
        "average_power_w_per_gpu": near(633, 0.11, "extrapolated"),
        "cost_usd": near(cost),
        "carbon_kg": near(meter / 3.6e6 * 0.37, 0.18, "datasheet"),
        "days": near(gpu_days),
        "graph_density_active": Number.exact(3.1e-5),
        "breakdown": items,
        "memory_by_stage": stage_memory(stages, MEMORY),
        "operators": operators(step, dense=dense),
        "timeline": line,
        "traffic": traffic(max(1, gpus // 8) if gpus <= 512 else 256, stages=stages, dense=dense),
        "bill": [
            Price(item=f"{gpus} GPUs rented for {gpu_days:.1f} days", amount="$2.95 per GPU-hour", usd=near(cost)),
            Price(item="Electricity", amount="included in rent", usd=Number.exact(0)),
        ],
        "levers": levers(step, cost),
        "run": {
            "name": "mixtral-8x7b-64xh100",
            "model": {"name": "mixtral-8x7b", "num_hidden_layers": 32},
            "parallelism": {"tp": 1, "pp": stages},
            "execution": {"a2a_overlap": False},
        },
        "run_file": RUN_FILE,
        "provenance": provenance(),
    }
    return Result(**fields | sources() | changes)


def one_gpu() -> Result:
    """Nothing to talk to: no traffic, no pipeline, no precedents, no levers, no tokens, no money."""
    result = training(gpus=1, stages=1, dense=True)
    quiet = Traffic(
        in_node=Matrix(labels=["0"], bytes=[[0.0]]),
        between_nodes=Matrix(labels=["0"], bytes=[[0.0]]),
        links=[],
        note="",
    )
    items = [item for item in result.breakdown if item.group != "communicating"]
    absent = dict.fromkeys(("days", "cost_usd", "carbon_kg", "energy_total_j", "communication_s"))
    return result.model_copy(
        update={
            "summary": summary(gpus=1, model="Llama 3.1 8B", tokens=None, gpu_hour_usd=None),
            "step_time_s": near(sum(i.seconds.value for i in items)),
            "breakdown": items,
            "traffic": quiet,
            "bill": [],
            "levers": [],
            "precedents": [],
            "assumptions": [],
            **absent,
        }
    )


def bare() -> Result:
    """Nothing but what a result can't be without."""
    return Result(
        name="bare", kind="training", summary=summary(tokens=None), run={}, run_file="", provenance=provenance()
    )


def huge() -> Result:
    """131,072 GPUs in 64 stages."""
    return training(gpus=131_072, stages=64)


def all_datasheet() -> Result:
    """Nothing was measured, and the intervals are wide."""
    result = training()
    weak = {
        key: Number(value=n.value, low=0.6 * n.value, high=1.7 * n.value, basis="datasheet")
        for key, n in result.numbers().items()
        if "." not in key and n.basis != "exact"
    }
    rows = [row.model_copy(update={"basis": "datasheet", "measurements": 0}) for row in result.basis]
    return result.model_copy(update={**weak, "basis": rows, "precedents": []})


HOSTILE = "<script>alert('x')</script>&\"" + "long name " * 18


@cache
def played(run: str = "mixtral-8x7b-64xh100", *overrides: str) -> Result:
    """A shipped run as the event engine plays it, with the links it was played on."""
    return simulate(read_run(data_root() / f"workloads/runs/{run}.yaml", overrides), engine="events")


PODS = (
    "hardware.gpus=1024",
    "training.global_batch=4096",
    "parallelism.vpp=4",
    "hardware.network={extends: ib-ndr400-rail, oversubscription: 2, pods: {nodes: 64, oversubscription: 7}}",
    "hardware.faults=[{node: 2, port: 0, left: 0}, {gpu: 13, speed: 0.9}]",
)


def hostile() -> Result:
    """A name of 200 characters that is markup, in every field a user writes."""
    name = HOSTILE[:200]
    result = training(name=name, run_file=f"name: {name}\n</script><!--", run={"name": name})
    spans = {k: [s.model_copy(update={"name": name}) for s in v] for k, v in result.timeline.blocks.items()}
    return result.model_copy(
        update={
            "summary": summary(model=name, device=name),
            "timeline": result.timeline.model_copy(update={"blocks": spans}),
            "levers": [lever.model_copy(update={"label": name, "change": name}) for lever in result.levers],
        }
    )


def infeasible() -> Result:
    """Does not fit in memory."""
    return Result(
        name="mixtral-8x7b-8xh100",
        kind="training",
        summary=summary(gpus=8),
        run={"name": "mixtral-8x7b-8xh100"},
        run_file=RUN_FILE,
        provenance=provenance(),
        infeasible=Infeasible(
            reason="does not fit in memory",
            needed_gib=91.2,
            available_gib=80.0,
            breakdown_gib={"parameters": 21.7, "gradients": 43.5, "optimizer_states": 16.3, "activations": 9.7},
            suggestion="parallelism.pp: 8",
        ),
    )


def latency(median: float, spread: float = 1.0) -> Latency:
    """Invented percentiles around a median: the slowest take a few times as long."""
    shares = [i / 40 for i in range(1, 40)] + [0.98, 0.99, 0.995, 0.999]
    quantiles = [(share, median * math.exp(spread * (math.log(share / (1 - share))) / 4)) for share in shares]
    p50, p90, p99 = (near(dict(quantiles)[share]) for share in (0.5, 0.9, 0.99))
    return Latency(mean=near(1.1 * median), p50=p50, p90=p90, p99=p99, quantiles=quantiles)


def requests(count: int = 50) -> Requests:
    """Invented requests that arrive every tenth of a second, with objectives that most of them keep."""
    spans = [
        RequestSpan(
            arrival_s=i / 10,
            start_s=i / 10 + 0.01 * (i % 4),
            first_token_s=i / 10 + 0.2,
            end_s=i / 10 + 2 + 0.1 * (i % 7),
            prompt_tokens=1000 + i,
            output_tokens=100 + i,
        )
        for i in range(count)
    ]
    load = [LoadSample(at_s=i / 10, running=i % 9, waiting=i % 3, cache_share=(i % 9) / 20) for i in range(80)]
    return Requests(
        served=count,
        duration_s=8.0,
        instances=1,
        requests_per_s=near(6.2),
        sustainable_requests_per_s=near(9.9),
        goodput_requests_per_s=near(5.8),
        ttft_s=latency(0.2),
        tpot_s=latency(0.02, 0.2),
        itl_s=latency(0.018),
        e2e_s=latency(2.3, 0.3),
        queue_s=latency(0.01, 2.0),
        ttft_slo_s=1.0,
        tpot_slo_s=0.025,
        good_share=0.94,
        preemptions=3,
        busy_share=0.62,
        prompt_tokens=51_000,
        cached_tokens=9_000,
        output_tokens=6_000,
        usd_per_million_tokens=near(0.8),
        usd_per_million_prompt_tokens=near(0.2),
        usd_per_million_answer_tokens=near(4.1),
        joules_per_token=near(0.4),
        load=load,
        requests=spans,
    )


def serving() -> Result:
    """Requests that arrive: the same phases, and what the requests see."""
    return inference().model_copy(update={"kind": "serving", "serving": requests()})


def inference() -> Result:
    """A static batch: prefill, then decode."""
    chunks = [Chunk(stage=0, start_s=0.0, end_s=0.31, phase="prefill", micro_batch=0, chunk=0)]
    for i in range(200):
        start = 0.31 + i * 0.0208
        chunks.append(Chunk(stage=0, start_s=start, end_s=start + 0.02, phase="decode", micro_batch=i, chunk=0))
    blocks = {
        "0/prefill/0": [
            Span(stream="Compute", name="GEMMs", color="dense", start_s=0, end_s=0.25),
            Span(stream="NVLink", name="all-reduce", color="comm", start_s=0.25, end_s=0.31),
        ],
        "0/decode/0": [
            Span(stream="Compute", name="weights", color="mem", start_s=0, end_s=0.016),
            Span(stream="NVLink", name="all-reduce", color="comm", start_s=0.016, end_s=0.02),
        ],
    }
    line = Timeline(
        stages=1,
        duration_s=0.31 + 200 * 0.0208,
        chunks=chunks,
        blocks=blocks,
        shares={key: _shares(spans) for key, spans in blocks.items()},
    )
    parts = {"parameters": 35.2, "activations": 1.2, "kv_cache": 24.0, "buffers": 2.0, "framework": 3.0}
    items = (
        ("gemms", "GEMMs", "computing", "dense", 0.0012),
        ("weights", "Reading weights and cache", "computing", "mem", 0.0149),
        ("all_reduce", "All-reduce", "communicating", "comm", 0.0040),
        ("host", "Host", "host", "host", 0.0007),
    )
    return Result(
        name="llama3.1-70b-4xh100",
        kind="inference",
        summary=summary(model="Llama 3.1 70B", gpus=4, tokens=None, precision="fp8", gpu_hour_usd=2.95),
        step_time_s=near(0.0208),
        ttft_s=near(0.31),
        tpot_s=near(0.0208),
        output_tokens_per_s=near(3070),
        max_concurrency=near(310),
        tokens_per_s_per_gpu=near(770),
        joules_per_output_token=near(0.92, 0.15, "extrapolated"),
        usd_per_million_output_tokens=near(1.07),
        peak_memory_gib=near(65.4, 0.04),
        memory_gib=memory(parts),
        breakdown=[BreakdownItem(key=k, label=label, group=g, color=c, seconds=near(s)) for k, label, g, c, s in items],
        memory_by_stage=[StageMemory(stage=0, label="", parts=parts, total=near(65.4, 0.04), peak_moment="last token")],
        timeline=line,
        run={"inference": {"concurrency": 64, "isl": 1024, "osl": 1024}},
        run_file="kind: inference\n",
        provenance=provenance(),
    )
