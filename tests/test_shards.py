"""Shards of work: kept whole, never lost and never counted twice, whoever dies and however the disk is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from simulator.errors import SimulatorError, SpecError
from simulator.shards.store import Memory, Store, open_store
from simulator.shards.work import HERE, Job, Workers, finish

JOBS = {f"points-{number:05d}": Job(number, 4) for number in range(6)}


def numbers(number: int) -> pd.DataFrame:
    """Four points: their numbers, a tenth of them, a word, and a reason for the last."""
    points = [4 * number + place for place in range(4)]
    reasons = [None, None, None, "too large" if number else None]
    data = {"point": points, "tenth": [p / 10 for p in points], "nowhere": [float("nan")] * 4, "word": ["a"] * 4}
    return pd.DataFrame({**data, "reason": pd.Series(reasons, dtype=object)})


def opened(folder: Path, *, resume: bool = False, **described: Any) -> Store:
    return open_store(folder, {"plan": {"name": "p", "limits": {"days": 3}}, **described}, resume=resume)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_shard_is_there_once(tmp_path: Path, processes: int) -> None:
    store, told = opened(tmp_path), []
    finish(numbers, JOBS, store, workers=Workers(processes), progress=lambda done, total: told.append((done, total)))
    assert told == [(4 * n, 24) for n in range(1, 7)]
    words = ["word", "reason"]
    assert_frame_equal(store.read("points-00002").drop(columns=words), numbers(2).drop(columns=words))
    table = store.table(list(JOBS))
    assert table["point"].tolist() == list(range(24))
    assert table["tenth"].tolist() == [p / 10 for p in range(24)]
    assert list(table.columns) == ["point", "tenth", "word", "reason"]  # no point has a `nowhere`
    assert table["reason"].dropna().tolist() == ["too large"] * 5


def test_the_folder_is_one_table_for_pandas_and_duckdb(tmp_path: Path) -> None:
    finish(numbers, JOBS, opened(tmp_path), workers=HERE)
    assert sorted(pd.read_parquet(tmp_path / "points")["point"]) == list(range(24))
    question = f"SELECT sum(point), count(reason) FROM '{tmp_path}/points/*.parquet'"
    assert duckdb.sql(question).fetchall() == [(276, 5)]


def test_shards_that_are_there_are_not_done_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    finish(numbers, dict(list(JOBS.items())[:2]), store, workers=HERE)
    (tmp_path / "points" / ".points-00002-1").write_text("half a shard", encoding="utf-8")
    done: list[int] = []

    def noted(number: int) -> pd.DataFrame:
        done.append(number)
        return numbers(number)

    told: list[int] = []
    again = opened(tmp_path, resume=True)
    finish(noted, JOBS, again, workers=HERE, progress=lambda points, total: told.append(points))
    assert done == [2, 3, 4, 5]
    assert told == [8, 12, 16, 20, 24]
    assert again.table(list(JOBS))["point"].tolist() == list(range(24))


def test_only_the_same_work_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nothing to resume here; start it without --resume"):
        opened(tmp_path, resume=True)
    opened(tmp_path)
    opened(tmp_path, resume=True)
    with pytest.raises(SpecError) as error:
        open_store(tmp_path, {"plan": {"name": "p", "limits": {"days": 4, "usd": 1}}}, resume=True)
    assert str(error.value).endswith("what began here was another: limits.days: 3 -> 4; limits.usd: None -> 1")


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path) -> None:
    """/dev/full refuses every byte, as a full disk does: the second shard's scratch file leads there."""
    store = opened(tmp_path)
    (store.folder / f".points-00001-{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(SpecError, match=r"No space left on device.*; what is finished is kept, go on with --resume"):
        finish(numbers, JOBS, store, workers=HERE)
    assert sorted(file.name for file in store.folder.iterdir()) == ["_manifest.json", "points-00000.parquet"]
    finish(numbers, JOBS, opened(tmp_path, resume=True), workers=HERE)
    assert store.table(list(JOBS))["point"].tolist() == list(range(24))


_MARKS: list[Path] = []


def dying(number: int) -> pd.DataFrame:
    """Kills its process on shard 1, as often as there are marks left."""
    if number == 1:
        for mark in _MARKS:
            if not mark.exists():
                mark.touch()
                os._exit(9)
    return numbers(number)


def test_the_shard_of_a_worker_that_died_is_done_again(tmp_path: Path) -> None:
    _MARKS[:] = [tmp_path / "died", tmp_path / "died twice"]
    store = Memory()
    finish(dying, JOBS, store, workers=Workers(2))
    assert all(mark.exists() for mark in _MARKS)
    assert_frame_equal(pd.concat(store.frames[name] for name in JOBS), pd.concat(numbers(n) for n in range(6)))


def test_workers_that_keep_dying_end_the_work_but_not_what_is_done(tmp_path: Path) -> None:
    _MARKS[:] = [tmp_path / str(number) for number in range(9)]
    store = Memory()
    with pytest.raises(SimulatorError, match=r"worker processes died 4 times \(out of memory\?\)"):
        finish(dying, JOBS, store, workers=Workers(2))
    assert sum(mark.exists() for mark in _MARKS) in (4, 5)  # both processes may be in the shard's way
    assert "points-00001" not in store.frames


PARENT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_shards import JOBS, lasting
from simulator.shards.store import open_store
from simulator.shards.work import Job, Workers, finish
finish(lasting, {{name: Job((sys.argv[1], job.data), 1) for name, job in JOBS.items()}},
       open_store(Path(sys.argv[1]), {{}}, resume=False), workers=Workers(2))
"""


def lasting(job: tuple[str, int]) -> pd.DataFrame:
    """Leaves its process's number in a folder and takes a minute, but for the first two shards."""
    folder, number = job
    Path(folder, f"by-{os.getpid()}").touch()
    time.sleep(60 if number > 1 else 0)
    return numbers(number)


def test_workers_end_with_the_process_that_was_killed(tmp_path: Path) -> None:
    tests = Path(__file__).resolve().parent
    code = PARENT.format(root=str(tests.parent), tests=str(tests))
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as parent:
        end = time.monotonic() + 60
        while len(list(tmp_path.glob("by-*"))) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        parent.kill()
    workers = [int(file.name.removeprefix("by-")) for file in tmp_path.glob("by-*")]
    assert len(workers) == 2
    end = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(alive, workers))


def alive(process: int) -> bool:
    """Whether a process runs, and does not only wait to be buried."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def test_an_unreachable_scheduler_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.shards.cluster.CONNECT_SECONDS", 0.5)
    store = opened(tmp_path)
    finish(numbers, dict(list(JOBS.items())[:1]), store, workers=HERE)
    with pytest.raises(SpecError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .* kept, go on with --resume"):
        finish(numbers, JOBS, store, workers=Workers(scheduler="tcp://127.0.0.1:9"))
    with pytest.raises(SpecError, match="no Dask scheduler answers at nonsense://x "):
        finish(numbers, JOBS, store, workers=Workers(scheduler="nonsense://x"))
    assert store.has("points-00000")
