"""Plans and sweeps on a real Dask cluster of two worker processes, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pandas as pd
import pytest
from distributed import LocalCluster
from pandas.testing import assert_frame_equal
from test_plan_search import make
from test_sweeps import make as make_sweep

from simulator.errors import SimulatorError
from simulator.planning import search as searching
from simulator.planning.plan import solve
from simulator.shards.store import Memory
from simulator.shards.work import Job, Workers, finish
from simulator.sweeps import evaluate, evaluate_range


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as opened:
        yield opened


def test_a_plan_has_the_same_answer_on_a_cluster(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "SHARD_POINTS", 7)
    here, there = solve(make()), solve(make(), workers=Workers(scheduler=cluster.scheduler_address))
    assert_frame_equal(there.table, here.table)
    assert there.ranked == here.ranked


def test_a_sweep_has_the_same_table_on_a_cluster(cluster: LocalCluster) -> None:
    sweep = make_sweep({"parallelism.tp": [1, 2, 4], "training.micro_batch": [1, 2]})
    assert_frame_equal(evaluate(sweep, workers=Workers(scheduler=cluster.scheduler_address)), evaluate(sweep))


def slow(job: tuple[str, int]) -> pd.DataFrame:
    """A tenth of a second of work, noted in a folder by whoever does it."""
    folder, number = job
    time.sleep(0.1)
    Path(folder, f"{number}-{os.getpid()}").touch()
    return pd.DataFrame({"point": [number]})


def test_a_worker_killed_in_the_middle_loses_and_repeats_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_a_worker(done: int, total: int) -> None:
        if done >= 4 and not killed:
            latest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
            killed.append(int(latest.name.split("-")[1]))
            os.kill(killed[0], signal.SIGKILL)

    store, jobs = Memory(), {f"points-{n:05d}": Job((str(tmp_path), n), 1) for n in range(24)}
    written: Counter[str] = Counter()
    keep = store.write
    object.__setattr__(store, "write", lambda name, frame: (written.update([name]), keep(name, frame)))
    finish(slow, jobs, store, workers=Workers(scheduler=cluster.scheduler_address), progress=kill_a_worker)
    assert [store.frames[name]["point"].item() for name in jobs] == list(range(24))
    assert dict(written) == dict.fromkeys(jobs, 1)  # kept once, though what the dead worker held was done again
    done = [[int(part) for part in file.name.split("-")] for file in tmp_path.iterdir()]
    assert {number for number, _ in done} == set(range(24))
    assert 4 <= len({number for number, process in done if process != killed[0]}) < 24


def deadly(job: int) -> pd.DataFrame:
    os._exit(9)


def test_a_shard_that_kills_every_worker_is_named(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 1)  # of workers, before the scheduler gives up
    with pytest.raises(SimulatorError, match="shard points-00000 killed every worker it was given to"):
        finish(deadly, {"points-00000": Job(0, 1)}, Memory(), workers=Workers(scheduler=cluster.scheduler_address))


def test_a_scheduler_that_is_killed_ends_the_work_but_not_what_is_done(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    store, jobs = Memory(), {f"points-{n:05d}": Job(("", n, n + 1), 1) for n in range(4)}
    store.write("points-00000", pd.DataFrame({"point": [0]}))
    with subprocess.Popen(
        [*command, "--no-dashboard", "--scheduler-file", str(file)], stderr=subprocess.DEVNULL
    ) as going:
        end = time.monotonic() + 60
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.02)
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
        Timer(1.0, going.kill).start()  # it has no worker, so that all shards wait
        with pytest.raises(SimulatorError, match=f"the scheduler at {address} went away .*what is finished is kept"):
            finish(evaluate_range, jobs, store, workers=Workers(scheduler=address))
    assert list(store.frames) == ["points-00000"]
