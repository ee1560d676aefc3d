"""Collectives between two real processes, and what is said when one of them dies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from simulator.calibration import collectives
from simulator.calibration.collectives import OPS, points, timed
from simulator.calibration.journal import read_trials
from simulator.calibration.ranks import run_ranks
from simulator.errors import CalibrationError

WORKER = "simulator.calibration.collectives_worker"


def test_sizes_grow_fourfold_from_512_bytes() -> None:
    found = list(points("cpu", largest=8192))
    assert [p.bytes for p in found if p.op == "all_reduce"] == [512, 2048, 8192]
    assert {p.op for p in found} == set(OPS)
    assert next(p.key for p in found if p.after_work) == "all_to_all|512|after work"
    assert max(p.bytes for p in points("cuda")) == 2**29


def test_on_gpus_several_in_a_row_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two events on the rank's stream, and the slowest rank counts: 40 ms for twenty are 2 ms."""
    runs: list[int] = []

    def between(run: Callable[[], object], repeats: int) -> float:
        for _ in range(repeats):
            run()
        return 40e-3

    monkeypatch.setattr(collectives, "between_events", between)
    monkeypatch.setattr(dist, "barrier", lambda: None)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: tensor.mul_(1.5))
    monkeypatch.setattr(torch, "tensor", lambda value, dtype, device: torch.full((), value, dtype=dtype))
    assert timed(lambda: runs.append(1), torch.device("cuda", 0)) == pytest.approx(3e-3)
    assert len(runs) == 20


def test_two_processes_measure_every_collective_and_a_spread_model(tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    run_ranks(WORKER, ["points", "cpu", str(file), "0.2", "2048"], ranks=2, timeout_s=120)
    assert json.loads(file.read_text().splitlines()[0])["backend"] == "gloo"
    found = read_trials(file)
    alone = {p.key for p in points("cpu", largest=2048) if not p.after_work}
    assert alone <= set(found) <= {p.key for p in points("cpu", largest=2048)}
    assert all(1e-6 < seconds < 10 for trials in found.values() for seconds in trials)


def test_processes_that_hang_are_ended() -> None:
    with pytest.raises(CalibrationError, match=r"^2 processes took longer than 3 s; they were ended$"):
        run_ranks("timeit", ["-n1", "-r1", "import time; time.sleep(600)"], ranks=2, timeout_s=3)


def test_spread_experts_compute_what_one_process_computes() -> None:
    """Two ranks in two threads of this process, their exchange a pair of queues."""
    from simulator.calibration.torch_experts import MixtureOfExperts, Routing
    from simulator.calibration.verify_cases import moe

    torch.manual_seed(0)
    spec = moe(32, 1, 4)
    whole = MixtureOfExperts(spec)
    x = torch.randn(2, 1, 6, 32)
    barrier, table = threading.Barrier(2), {}

    class Threads:
        ranks = 2

        def __init__(self, rank: int) -> None:
            self.rank, self.turn = rank, 0

        def swap(self, mine: list[torch.Tensor]) -> list[torch.Tensor]:
            self.turn += 1
            table[self.turn, self.rank] = mine
            barrier.wait()
            return [table[self.turn, other][self.rank] for other in range(2)]

        def agree(self, counts: torch.Tensor) -> Routing:
            mine = counts.view(2, -1).long()
            arriving = self.swap(list(mine))
            return Routing(mine.sum(1).tolist(), [row.tolist() for row in arriving])

        def rows(self, rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
            return torch.cat(self.swap(list(rows.split(sent))))

    outs: dict[int, torch.Tensor] = {}

    def work(rank: int) -> None:
        layer = MixtureOfExperts(spec, Threads(rank))
        layer.router.load_state_dict(whole.router.state_dict())
        for mine, expert in zip(layer.experts, whole.experts[2 * rank : 2 * rank + 2], strict=True):
            mine.load_state_dict(expert.state_dict())
        with torch.no_grad():
            outs[rank] = layer(x[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for rank in range(2):
        torch.testing.assert_close(outs[rank], whole(x[rank]).detach())


def test_gradients_of_an_exchange_travel_back(tmp_path: Path) -> None:
    from simulator.calibration.collectives_models import GroupExchange

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        rows = torch.arange(6.0).view(3, 2).requires_grad_()
        exchange = GroupExchange()
        assert exchange.agree(torch.tensor([1.0, 2.0])) == ([3], [[1, 2]])
        (exchange.rows(rows, [3], [3]) * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()
        assert rows.grad is not None
        assert rows.grad.tolist() == [[1, 1], [2, 2], [3, 3]]
    finally:
        dist.destroy_process_group()
