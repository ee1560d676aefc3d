"""Fits the constants of collectives on the published kernel timings, and writes the table they are validated on.

    python benchmarks/fit_collectives.py            prints the constants of each architecture and their errors
    python benchmarks/fit_collectives.py --table    rewrites workloads/validation/collectives.csv

Needs the extra `silicon` and SciPy. Every timing goes through the code that times a run. Errors are logarithms; each
operation and group size weighs the same, 512 MiB six times as much as a small message, so that the bandwidth of
large ones is not traded for the protocols of small ones. Rows README and PUBLIC of the table are in no fit.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from simulator.calibration.sources_silicon import GPUS, Database, find_database
from simulator.cost.collective import timing
from simulator.cost.machine import Machine, build_machine
from simulator.graph.operator import Collective
from simulator.spec.base import data_root
from simulator.spec.curves import Curves
from simulator.spec.hardware import load_device, resolve_hardware
from simulator.validation.collectives import Case

TABLE = data_root() / "workloads/validation/collectives.csv"
LARGE = 2**29
LADDER = (2**10, 2**16, 2**20, 2**24, 2**27)
"""Sizes in the table besides the largest, of the newest release only."""
TOKENS = {"deepep": (128, 1024, 4096, 8192, 65536), "deepep_ll": (1, 16, 64, 128, 256, 512, 1024)}
RACK_TOKENS = (1, 16, 128, 1024, 8192, 65536)
SMS = (4, 8, 16, 20, 24)
MOST_NODES = {"deepep": 4, "deepep_ll": 8}
"""On 8 nodes the normal dispatch takes longer than its combine at half the bytes; those rows are left out."""
NCCL = ("ring", "ring_own", "in_network", "in_network_us", "all_to_all", "all_to_all_own", "all_to_all_us", "base_us",
        "hop_us")  # fmt: skip
EXCHANGE = ("us", "node_us", "link", "nic", "sm_gb", "sm_network_gb")
NAMES = {"deepep": "DeepEP normal", "deepep_ll": "DeepEP low-latency"}
BOXES = ("h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm")
ARCHITECTURES = {
    "ampere": ("a100-sxm-80gb",),
    "hopper": ("h100-sxm", "h200-sxm"),
    "blackwell": ("b200-sxm", "b300-sxm", "gb200", "gb300"),
}


class Timed(NamedTuple):
    """One published timing: where it is from, on what machine, of what, and how long."""

    source: str
    release: str
    device: str
    gpus: int
    case: Case
    seconds: float


def nccl(database: Database, device: str) -> Iterator[Timed]:
    """NCCL's collectives in 16 bits, the least of repeated timings."""
    for file in sorted((database.folder / GPUS[device]).glob("comm/nccl/*/nccl_perf.parquet")):
        raw = pd.read_parquet(file)
        raw = raw[raw["nccl_dtype"] == "half"]
        least = raw.groupby(["op_name", "num_gpus", "message_size"], as_index=False)["latency"].min()
        for row in least.itertuples(index=False):
            kind = {"alltoall": "all_to_all"}.get(row.op_name, row.op_name)
            case = Case(kind=kind, ranks=row.num_gpus, bytes=2 * row.message_size)
            yield Timed(database.source(file), file.parent.name, device, 8, case, row.latency * 1e-3)


def deepep(database: Database, device: str) -> Iterator[Timed]:
    """DeepEP with 7168 hidden and 8 of 256 experts: dispatch in fp8, combine in bf16."""
    local = load_device(device).node.gpus
    for kernel, mode in (("deepep", "normal"), ("deepep_ll", "ll")):
        for file in sorted((database.folder / GPUS[device]).glob(f"comm/sglang/*/wideep_deepep_{mode}_perf.parquet")):
            raw = pd.read_parquet(file)
            usual = (raw["hidden_size"] == 7168) & (raw["num_topk"] == 8) & (raw["num_experts"] == 256)
            for row in raw[usual & (raw["node_num"] <= MOST_NODES[kernel])].to_dict("records"):
                for kind, precision in (("dispatch", "fp8"), ("combine", "bf16")):
                    parts = ("transmit_us", "notify_us") if mode == "normal" else ("avg_t_us",)
                    case = Case(
                        kind=kind,
                        ranks=row["node_num"] * local,
                        kernel=kernel,
                        tokens=row["num_token"],
                        hidden=7168,
                        top_k=8,
                        precision=precision,
                        reached_nodes=4 if mode == "normal" and row["node_num"] > 1 else None,
                        sms=row[f"{kind}_sms"] if mode == "normal" else None,
                    )
                    seconds = sum(row[f"{kind}_{part}"] for part in parts) * 1e-6
                    yield Timed(database.source(file), file.parent.name, device, case.ranks, case, seconds)


def exchanges(database: Database) -> list[Timed]:
    """DeepEP's rows of all devices in boxes of eight. Files that hold another device's timings again are left out."""
    seen: dict[float, str] = {}
    rows = []
    for device in BOXES:
        for row in deepep(database, device):
            if seen.setdefault(row.seconds, device) == device:
                rows.append(row)
    return rows


def rack(database: Database) -> Iterator[Timed]:
    """TensorRT-LLM's exchange over an NVL72 rack; a dispatch with its preparation."""
    (file,) = (database.folder / GPUS["gb200"]).glob("comm/trtllm/*/trtllm_alltoall_perf.parquet")
    raw = pd.read_parquet(file)
    raw = raw[(raw["kernel_source"] == "NVLinkTwoSided") & (raw["moe_ep_size"] >= 8)]
    for (dtype, ranks, tokens), rows in raw.groupby(["moe_dtype", "moe_ep_size", "num_tokens"]):
        least = rows.groupby("op_name")["latency"].min() * 1e-3
        precision = "bf16" if dtype == "bfloat16" else dtype
        times = {"dispatch": least["alltoall_dispatch"] + least["alltoall_prepare"]}
        if precision == "bf16":
            times["combine"] = least["alltoall_combine"]
        for kind, seconds in times.items():
            case = Case(
                kind=kind, ranks=ranks, kernel="two_sided", tokens=tokens, hidden=7168, top_k=8, precision=precision
            )
            yield Timed(database.source(file), file.parent.name, "gb200", 72, case, seconds)


def placed(rows: Sequence[Timed]) -> list[tuple[Machine, Collective]]:
    """The machine and the collective of every row."""
    machines = {
        (row.device, row.gpus): build_machine(resolve_hardware({"device": row.device, "gpus": row.gpus}))
        for row in rows
    }
    return [(machines[row.device, row.gpus], row.case.work(machines[row.device, row.gpus])) for row in rows]


def weights(rows: Sequence[Timed]) -> Any:
    """Every operation, group size and device kind alike; large messages more."""
    keys = [(row.case.kind, row.case.ranks, row.case.kernel) for row in rows]
    size = np.array([row.case.bytes or 0.0 for row in rows])
    alike = np.array([1 / np.sqrt(keys.count(key)) for key in keys])
    return alike * np.where(size == LARGE, 6.0, np.where(size >= 2**26, 2.0, 1.0))


def fit(rows: Sequence[Timed], start: dict[str, float], changed: Any) -> tuple[dict[str, float], float]:
    """Constants that time the rows best, and the mean absolute error; `changed(curves, constants)` puts them in."""
    names, works = [name for name, value in start.items() if value], placed(rows)
    measured, weight = np.array([row.seconds for row in rows]), weights(rows)

    def predicted(x: Any) -> Any:
        constants = {**start, **dict(zip(names, np.exp(x).tolist(), strict=True))}
        altered = {id(machine): _with(machine, changed(machine.curves, constants)) for machine, _ in works}
        return np.array([timing(altered[id(machine)], work).seconds for machine, work in works])

    first = np.log([start[name] for name in names])
    found = least_squares(
        lambda x: weight * np.log(predicted(x) / measured), first, loss="soft_l1", f_scale=0.05, max_nfev=12
    )
    error = float(np.mean(np.abs(predicted(found.x) / measured - 1)))
    return {**start, **dict(zip(names, np.exp(found.x).tolist(), strict=True))}, error


def _with(machine: Machine, curves: Curves) -> Machine:
    return Machine(machine.hardware, curves)


def fit_nccl(curves: Curves, constants: dict[str, float]) -> Curves:
    """The curves with other constants of NCCL."""
    return curves.model_copy(update={"collective": curves.collective.model_copy(update=constants)})


def fit_exchange(kernel: str, phase: str) -> Any:
    """How the curves of one direction of a kernel are changed."""

    def changed(curves: Curves, constants: dict[str, float]) -> Curves:
        both = curves.exchange[kernel]  # type: ignore[index]
        known = {
            name: value for name, value in constants.items() if getattr(both, phase).model_dump()[name] is not None
        }
        one = getattr(both, phase).model_copy(update=known)
        return curves.model_copy(update={"exchange": {**curves.exchange, kernel: both.model_copy(update={phase: one})}})

    return changed


def print_fits(database: Database) -> None:
    """The constants of every architecture as fitted now, beside those in use."""
    for architecture, devices in ARCHITECTURES.items():
        rows = [row for device in devices for row in nccl(database, device)]
        curves = placed(rows[:1])[0][0].curves
        start = {name: getattr(curves.collective, name) for name in NCCL}
        if architecture == "ampere":
            start = {name: value for name, value in start.items() if not name.startswith("in_network")}
        _print(f"{architecture}, NCCL", start, *fit(rows, start, fit_nccl))
        of_experts = [row for row in exchanges(database) if row.device in devices]
        of_experts += list(rack(database)) if architecture == "blackwell" else []
        for kernel in curves.exchange:
            for phase in ("dispatch", "combine"):
                chosen = [row for row in of_experts if (row.case.kernel, row.case.kind) == (kernel, phase)]
                one = getattr(curves.exchange[kernel], phase).model_dump()
                across = any(row.case.ranks > 8 for row in chosen) and kernel != "two_sided"
                names = [n for n in EXCHANGE if one[n] and (across or n not in ("node_us", "nic", "sm_network_gb"))]
                begin = {name: one[name] for name in names}
                _print(f"{architecture}, {kernel} {phase}", begin, *fit(chosen, begin, fit_exchange(kernel, phase)))


def _print(title: str, used: dict[str, float], found: dict[str, float], error: float) -> None:
    constants = ", ".join(f"{name} {value:.4g} ({used[name]:.4g})" for name, value in found.items())
    print(f"{title}: mean error {error:.1%}\n  {constants}")


def write_table(database: Database) -> None:
    """Rewrite the measured rows of the table; those of other publishers stay."""
    with TABLE.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        columns = list(reader.fieldnames or [])
        others = [row for row in reader if row["id"].startswith(("README", "PUBLIC"))]
    rows = []
    for device in [device for devices in ARCHITECTURES.values() for device in devices]:
        timed = list(nccl(database, device))
        newest = max((row.release for row in timed), key=lambda text: [int(part) for part in text.split(".")])
        for row in timed:
            if row.case.bytes == LARGE or (row.release == newest and row.case.bytes in LADDER):
                size = "512 MiB" if row.case.bytes == LARGE else "below 512 MiB"
                rows.append(_line("NCCL", row, f"{row.case.kind}, {size}", "A" if row.case.bytes == LARGE else "B"))
    for row in exchanges(database):
        case = row.case
        if case.tokens in TOKENS[case.kernel] and (case.sms is None or case.sms in SMS):
            nodes = case.ranks // 8
            where = f"{nodes} node{'s' if nodes > 1 else ''}"
            rows.append(_line("DEEPEP", row, f"{NAMES[case.kernel]} {case.kind}, {where}", "A"))
    for row in rack(database):
        if row.case.tokens in RACK_TOKENS:
            rows.append(_line("NVL72", row, f"NVL72 {row.case.kind} in {row.case.precision}", "A"))
    counts: dict[str, int] = {}
    for line in rows:
        counts[line["id"]] = counts.get(line["id"], 0) + 1
        line["id"] = f"{line['id']}-{counts[line['id']]:04d}"
    with TABLE.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, *others])
    print(f"{len(rows)} rows of the database and {len(others)} others in {TABLE.name}")


def _line(prefix: str, row: Timed, name: str, quality: str) -> dict[str, Any]:
    said = row.case.model_dump(exclude_none=True, exclude_unset=True)
    return {
        "id": prefix,
        "source": row.source,
        "quality": quality,
        "kind": "collective",
        "name": name,
        "hardware.device": row.device,
        "hardware.gpus": row.gpus,
        **{f"collective.{key}": int(value) if isinstance(value, float) else value for key, value in said.items()},
        "measured.seconds": f"{row.seconds:.6g}",
    }


if __name__ == "__main__":
    found = find_database()
    write_table(found) if "--table" in sys.argv else print_fits(found)
