"""Imports the measured kernel timings in the package `aiconfigurator-core` (NVIDIA, Apache-2.0; extra `silicon`).

Parquet files lie under systems/data/<gpu>/<op>/<framework>/<version>/. They were taken inside CUDA graphs, 3 warm-ups
and the mean of 6 replays; no spread is stored. Traps this module knows: `latency` is in milliseconds, DeepEP's columns
are in microseconds, NCCL's `message_size` counts elements; vLLM's block-scaled fp8 GEMMs were timed eagerly and show
the host (55-151 us whatever the shape); files copied from another GPU; a mode of DeepEP on 8 nodes whose dispatch is
slower than its combine at half the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.calibration.disturbance import disturbed
from simulator.calibration.table import check_table
from simulator.errors import CalibrationError
from simulator.spec.hardware import load_device

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = "aiconfigurator_core"
GPUS = {
    "a100-sxm-80gb": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
_DTYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "int4_wo": "int4_weights",
    "w4a16_mxfp4": "mxfp4_weights",
}
_GEMM_FRAMEWORKS = {"fp8_block": ("trtllm", "sglang")}
"""vLLM's fp8_block GEMMs carry the host's launch time, so they aren't kernel times."""
_FRAMEWORKS = ("vllm", "trtllm", "sglang")
_UNGATED = {(2688, 1856), (2048, 5120), (1024, 2688)}
"""(hidden, expert width) of Nemotron 3 models, whose experts have two matrices (squared ReLU) instead of three. Kernels
of TensorRT-LLM say so in their name instead."""
_SKEWS = {"balanced": 0.0, "power_law_1.01": 1.01, "power_law_1.2": 1.2}
FEWEST_ROWS = 400
"""Kernels with fewer rows than this are special cases of another kernel's table."""
LANES = 3
"""Kernels kept per operation and dtype, from different frameworks."""


@dataclass(frozen=True)
class Database:
    """Where the files are and which release they are of."""

    folder: Path
    release: str

    def source(self, file: Path) -> str:
        """What a row cites."""
        return f"{self.release}, {file.relative_to(self.folder.parent.parent).as_posix()}"


def find_database(folder: str | Path | None = None) -> Database:
    """The database in `folder` (the package's, or its systems/data) or in the installed package. Raises
    CalibrationError.
    """
    if folder is None:
        found = util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise CalibrationError("the measured database is not installed; run: pip install 'moesim[silicon]'")
        root = Path(next(iter(found.submodule_search_locations)))
    else:
        root = Path(folder)
    for data in (root / "systems/data", root / "data", root / PACKAGE / "systems/data", root):
        if any((data / name).is_dir() for name in GPUS.values()):
            return Database(data, _release(data))
    raise CalibrationError(f"{root}: no measured database here; expected systems/data/<gpu>/<op>/<framework>/<version>")


def _release(data: Path) -> str:
    """Name and version: of the unpacked wheel the folder belongs to, else of the installed package."""
    for record in data.parent.parent.parent.glob(f"{PACKAGE}-*.dist-info"):
        return f"aiconfigurator-core {record.name.split('-')[1].removesuffix('.dist')}"
    try:
        return f"aiconfigurator-core {metadata.version('aiconfigurator-core')}"
    except metadata.PackageNotFoundError:
        return "aiconfigurator-core"


class Imported(NamedTuple):
    """A table in our columns, and what of the source was left out and why."""

    table: pd.DataFrame
    refused: tuple[str, ...]


def read_silicon(device: str, folder: str | Path | None = None, *, ops: Sequence[str] | None = None) -> Imported:
    """Measured rows of a catalog device; `ops` keeps some operations only.

    Raises CalibrationError where the package or the device's data is missing.
    """
    import pandas as pd

    database = find_database(folder)
    if device not in GPUS:
        raise CalibrationError(f"the database has no measurements of '{device}'; it has {', '.join(GPUS)}")
    gpu = database.folder / GPUS[device]
    frames: list[pd.DataFrame] = []
    refused: list[str] = []
    for name in ops or OPS:
        for frame in _read(database, gpu, device, name):
            kept = frame
            if name == "moe" and (bad := disturbed(frame.rename(columns={"latency_s": "latency"}))).any():
                kept = frame[~bad]
                refused.append(
                    f"{frame['source'].iloc[0]}: {bad.sum()} of {len(bad)} {frame['dtype'].iloc[0]} rows of "
                    f"{frame['kernel'].iloc[0]}: slower than the same layer split less, so the GPU was not free"
                )
            frames.append(kept)
    if not frames:
        raise CalibrationError(f"{gpu}: no measurements of {', '.join(ops or OPS)}")
    table = pd.concat(frames, ignore_index=True)
    table["device"] = device
    table["group_size"] = table["group_size"].fillna(1) if "group_size" in table else 1
    return Imported(check_table(table, str(gpu)), tuple(refused))


OPS = ("gemm", "moe", "prefill", "decode", "mla_prefill", "mla_decode", "collective", "exchange")


def _read(database: Database, gpu: Path, device: str, op: str) -> Iterator[pd.DataFrame]:
    match op:
        case "gemm":
            return _lanes(database, gpu, op, "gemm/*/*/gemm_perf.parquet")
        case "moe":
            return _lanes(database, gpu, op, "moe/*/*/moe_perf.parquet")
        case "prefill":
            return _lanes(database, gpu, op, "attention/*/*/context_attention_perf.parquet")
        case "decode":
            return _lanes(database, gpu, op, "attention/*/*/generation_attention_perf.parquet")
        case "mla_prefill":
            return _lanes(database, gpu, op, "mla/*/*/context_mla_perf.parquet")
        case "mla_decode":
            return _lanes(database, gpu, op, "mla/*/*/generation_mla_perf.parquet")
        case "collective":
            return _collectives(database, gpu)
        case "exchange":
            return _exchanges(database, gpu, device)
        case _:
            raise CalibrationError(f"the database isn't read for '{op}'; known: {', '.join(OPS)}")


def _read_parquet(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(file)
    except ImportError:
        raise CalibrationError("reading the database needs pyarrow; run: pip install 'moesim[silicon]'") from None
    except (ValueError, OSError) as error:  # pyarrow's errors are of these kinds
        raise CalibrationError(f"{file}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _newest(files: Iterable[Path]) -> dict[str, Path]:
    """Of each framework the newest version that isn't a supplement: its file is at least half as large as the
    largest.
    """
    found: dict[str, Path] = {}
    files = sorted(files, key=lambda f: _version(f.parent.name))
    for file in files:
        largest = max(f.stat().st_size for f in files if f.parent.parent == file.parent.parent)
        if 2 * file.stat().st_size >= largest:
            found[file.parent.parent.name] = file
    return found


def _version(text: str) -> tuple[int, ...]:
    digits = "".join(c if c.isdigit() else " " for c in text.replace("rc", " -1 ")).split()
    return tuple(int(d) for d in digits)


def _lanes(database: Database, gpu: Path, op: str, pattern: str) -> Iterator[pd.DataFrame]:
    """One frame per kernel kept: of each dtype the largest kernel of every framework, tables half as large as another's
    last.
    """
    found: dict[str, list[tuple[str, str, pd.DataFrame]]] = {}
    files = _newest(gpu.glob(pattern))
    for framework in (name for name in _FRAMEWORKS if name in files):
        for dtype, kernel, rows in _kernels(op, files[framework]):
            if op != "gemm" or framework in _GEMM_FRAMEWORKS.get(dtype, _FRAMEWORKS):
                found.setdefault(dtype, []).append((framework, kernel, rows))
    for dtype, lanes in found.items():
        if op == "gemm" and dtype == "bf16":
            yield _together(database, files, [(framework, rows) for framework, _, rows in lanes])
            continue
        largest = max(len(rows) for *_, rows in lanes)
        for framework, kernel, rows in sorted(lanes, key=lambda lane: 2 * len(lane[2]) < largest)[:LANES]:
            yield _finished(database, files[framework], op, dtype, f"{framework}:{kernel}", rows)


def _together(database: Database, files: dict[str, Path], lanes: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """16-bit GEMMs of all frameworks as one table: all call cuBLAS through torch, so they repeat one measurement.

    The median of them is free of a machine's bad hours (vLLM's on GB200 are up to 2.5 times slower than the others').
    """
    import pandas as pd

    each = [_finished(database, files[name], "gemm", "bf16", "cublas", rows) for name, rows in lanes]
    shape = ["m", "n", "k"]
    found = pd.concat(each).groupby(shape, sort=True)["latency_s"].median().reset_index()
    found["op"], found["dtype"], found["kernel"], found["library"] = "gemm", "bf16", "cublas", "torch"
    found["version"] = ", ".join(f"{name} {files[name].parent.name}" for name, _ in lanes)
    places = "; ".join(files[name].relative_to(database.folder.parent.parent).as_posix() for name, _ in lanes)
    found["source"] = f"{database.release}, {places}"
    return found


def _kernels(op: str, file: Path) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(dtype, kernel, rows in our columns) of the largest kernel of every dtype in a file."""

    raw = _read_parquet(file)
    raw["dtype"] = _dtype(op, raw)
    for dtype, rows in raw.dropna(subset=["dtype"]).groupby("dtype", sort=True):
        kernel = rows["kernel_source"].value_counts(sort=True).index[0]
        mine = rows[rows["kernel_source"] == kernel]
        if len(mine) >= FEWEST_ROWS:
            yield str(dtype), str(kernel).split("/")[0], _SHAPES[op](mine)


def _dtype(op: str, raw: pd.DataFrame) -> pd.Series:
    if op == "gemm":
        return raw["gemm_dtype"].map(_DTYPES)
    if op == "moe":
        return raw["moe_dtype"].map(_DTYPES)
    column = "mla_dtype" if op.startswith("mla") else "attn_dtype"
    compute, cache = raw[column].map(_DTYPES), raw["kv_cache_dtype"].map(_DTYPES)
    return compute.where(compute == cache, "fp8_cache").where(compute.notna() & cache.notna())


def _gemm(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["m", "n", "k", "latency"]]


def _moe(rows: pd.DataFrame) -> pd.DataFrame:
    found = rows.rename(
        columns={"num_tokens": "tokens", "hidden_size": "hidden", "inter_size": "inter", "num_experts": "experts"}
    ).rename(columns={"moe_tp_size": "tp", "moe_ep_size": "ep"})
    found["skew"] = found["distribution"].map(_SKEWS)
    if rows["framework"].iloc[0] == "TRTLLM":
        found["gated"] = (~found["kernel_source"].str.contains("nongated")).astype(int)
    else:
        found["gated"] = [int(pair not in _UNGATED) for pair in zip(found["hidden"], found["inter"], strict=True)]
    columns = ["tokens", "hidden", "inter", "topk", "experts", "tp", "ep", "skew", "gated", "latency"]
    return found.dropna(subset=["skew"])[columns]


def _attention(rows: pd.DataFrame, *, decode: bool) -> pd.DataFrame:
    found = rows.rename(columns={"batch_size": "batch", "num_heads": "heads", "num_key_value_heads": "kv_heads"})
    found["seq"] = found["isl"] + found["step"] if decode else found["isl"]
    found["kv_heads"] = found["kv_heads"].where(found["kv_heads"] > 0, found["heads"])
    found["window"] = found.get("window_size", 0)
    return found[["batch", "seq", "heads", "kv_heads", "head_dim", "window", "latency"]]


def _latent(rows: pd.DataFrame, *, decode: bool) -> pd.DataFrame:
    found = rows.rename(columns={"batch_size": "batch", "num_heads": "heads"})
    found["seq"] = found["isl"] + found["step"] if decode else found["isl"]
    return found[["batch", "seq", "heads", "latency"]]


_SHAPES: dict[str, Any] = {
    "gemm": _gemm,
    "moe": _moe,
    "prefill": lambda rows: _attention(rows, decode=False),
    "decode": lambda rows: _attention(rows, decode=True),
    "mla_prefill": lambda rows: _latent(rows, decode=False),
    "mla_decode": lambda rows: _latent(rows, decode=True),
}


def _finished(
    database: Database, file: Path, op: str, dtype: str, kernel: str, rows: pd.DataFrame, unit: float = 1e-3
) -> pd.DataFrame:
    """Rows with seconds and provenance; of a shape measured more than once the smallest time, free of one-sided
    spikes.
    """
    shape = [name for name in rows.columns if name != "latency"]
    found = rows.groupby(shape, sort=True)["latency"].min().reset_index()
    found["latency_s"] = found.pop("latency") * unit
    found["op"], found["dtype"], found["kernel"] = op, dtype, kernel
    found["library"], found["version"] = file.parent.parent.name, file.parent.name
    found["source"] = database.source(file)
    return found


_NCCL_OPS = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
             "alltoall": "all_to_all"}  # fmt: skip
_NCCL_BYTES = {"half": 2.0, "int8": 1.0}


def _collectives(database: Database, gpu: Path) -> Iterator[pd.DataFrame]:
    """NCCL of the newest version that has all operations, then the custom all-reduce of vLLM inside a CUDA graph."""

    for file in _newest(gpu.glob("comm/nccl/*/nccl_perf.parquet")).values():
        raw = _read_parquet(file)
        raw["bytes"] = raw["message_size"] * raw["nccl_dtype"].map(_NCCL_BYTES)
        for name, rows in raw.groupby("op_name", sort=True):
            op = _NCCL_OPS[str(name)]  # switches add 16-bit numbers only, so a reduction of int8 is another algorithm
            kept = rows[rows["nccl_dtype"] == "half"] if op in ("all_reduce", "reduce_scatter") else rows
            yield _collective(database, file, op, "nccl", kept)
    for file in _newest(gpu.glob("comm/vllm/*/custom_allreduce_perf.parquet")).values():
        raw = _read_parquet(file)
        raw["bytes"] = raw["message_size"] * _NCCL_BYTES["half"]
        yield _collective(database, file, "all_reduce", "vllm_custom_graph", raw[raw["backend"] == "vllm_graph"])


def _collective(database: Database, file: Path, op: str, kernel: str, rows: pd.DataFrame) -> pd.DataFrame:
    found = rows[["num_gpus", "bytes", "latency"]].rename(columns={"num_gpus": "group_size"})
    return _finished(database, file, op, "bytes", kernel, found)


def _exchanges(database: Database, gpu: Path, device: str) -> Iterator[pd.DataFrame]:
    yield from _deepep(database, gpu, device)
    for file in _newest(gpu.glob("comm/trtllm/*/trtllm_alltoall_perf.parquet")).values():
        yield from _two_sided(database, file)


def _deepep(database: Database, gpu: Path, device: str) -> Iterator[pd.DataFrame]:
    """DeepEP for throughput (`deepep`) and for latency (`deepep_ll`): dispatch in fp8, combine in bf16."""

    gpus = load_device(device).node.gpus
    for mode, kernel in (("normal", "deepep"), ("ll", "deepep_ll")):
        for file in sorted(gpu.glob(f"comm/sglang/*/wideep_deepep_{mode}_perf.parquet")):
            if _copied(file, gpu):
                continue
            raw = _read_parquet(file)
            if mode == "normal":
                raw = raw[raw["node_num"] < 8]
            for phase, dtype in (("dispatch", "fp8"), ("combine", "bf16")):
                yield _finished(database, file, phase, dtype, kernel, _deepep_rows(raw, mode, phase, gpus), unit=1e-6)


def _deepep_rows(raw: pd.DataFrame, mode: str, phase: str, gpus: int) -> pd.DataFrame:
    found = raw[["num_token", "hidden_size", "num_topk", "num_experts", "node_num"]].set_axis(
        ["tokens", "hidden", "topk", "experts", "nodes"], axis=1
    )
    found["group_size"] = found["nodes"] * gpus
    found["sms"] = raw[f"{phase}_sms"] if mode == "normal" else 0
    columns = (f"{phase}_transmit_us", f"{phase}_notify_us") if mode == "normal" else (f"{phase}_avg_t_us",)
    found["latency"] = raw[list(columns)].sum(axis=1)
    return found


def _copied(file: Path, gpu: Path) -> bool:
    """Whether an earlier GPU's folder holds the same times: then the rows are that GPU's, not a second measurement."""

    def times(path: Path) -> list[float]:
        raw = _read_parquet(path)
        return sorted(raw[[name for name in raw.columns if name.endswith("_us")]].sum(axis=1))

    for name in GPUS.values():
        if name == gpu.name:
            return False
        other = gpu.parent / name / file.relative_to(gpu)
        if other.is_file() and times(other) == times(file):
            return True
    return False


def _two_sided(database: Database, file: Path) -> Iterator[pd.DataFrame]:
    """TensorRT-LLM's exchange over an NVL72 rack; a dispatch includes the preparation it always follows."""

    raw = _read_parquet(file).rename(
        columns={"num_tokens": "tokens", "hidden_size": "hidden", "num_experts": "experts", "moe_ep_size": "group_size"}
    )
    raw = raw[raw["kernel_source"] == "NVLinkTwoSided"]
    raw["nodes"], raw["sms"] = 1, 0
    key = ["tokens", "hidden", "topk", "experts", "group_size", "nodes", "sms"]
    steps = {name: rows.groupby([*key, "moe_dtype"])["latency"].min() for name, rows in raw.groupby("op_name")}
    dispatch = (steps["alltoall_dispatch"] + steps["alltoall_prepare"]).dropna().reset_index()
    combine = steps["alltoall_combine"].reset_index()
    for moe, dtype in (("bfloat16", "bf16"), ("fp8", "fp8"), ("nvfp4", "nvfp4")):
        rows = dispatch[dispatch["moe_dtype"] == moe][[*key, "latency"]]
        yield _finished(database, file, "dispatch", dtype, "trtllm_two_sided", rows)
    rows = combine[combine["moe_dtype"] == "bfloat16"][[*key, "latency"]]
    yield _finished(database, file, "combine", "bf16", "trtllm_two_sided", rows)
