"""Plan files: what they may say, what they choose from the catalogs, and what is refused, at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.errors import SpecError
from simulator.spec.base import data_root
from simulator.spec.plan import read_plan
from simulator.spec.price_table import hourly, read_prices, rents
from simulator.spec.selection import select

PLAN = """name: small
run: mixtral-8x7b-64xh100
prices: {h100-sxm: 2.95 USD/h, b200-sxm: 5.50 USD/h}
vary:
  hardware.device: [h100-sxm, b200-sxm]
  hardware.gpus: {from: 64, to: 256, factor: 2}
splits: legal
constraints: {deadline: 30 days, memory_headroom: 4 GiB, power: 1 MW, carbon: 50 t}
objectives: [money, time]
"""


def written(folder: Path, text: str = PLAN) -> Path:
    file = folder / "plan.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_plan_is_read_in_si(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path))
    assert plan.axes == {"hardware.device": ["h100-sxm", "b200-sxm"], "hardware.gpus": [64, 128, 256]}
    limits = plan.constraints.stated()
    assert limits == {"deadline": 30 * 86400, "memory_headroom": 4 * 2**30, "power": 1e6, "carbon": 50e6}
    assert plan.decide_on == "value"
    assert isinstance(plan.run, dict)
    assert plan.run["model"] == "mixtral-8x7b"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("deadline: 30 days", "deadline: 30", "8: constraints.deadline: 30 has no unit; a time is written like '2 us'"),
        ("power: 1 MW", "powr: 1 MW", "8: constraints.powr: unknown key 'powr'. Did you mean 'power'?"),
        ("[money, time]", "[money, money]", "1: an objective stands twice"),
        ("hardware.gpus: {", "hardware.gpu: {", "6: vary.hardware.gpu.0: unknown key 'gpu'. Did you mean 'gpus'?"),
        ("[h100-sxm, b200-sxm]", "[h100-sxm, b300-sxm]",
         "3: prices: no price for b300-sxm (there are prices for: b200-sxm, h100-sxm)"),
        ("splits: legal", "splits: {tp: [0]}", "7: splits.tp: expected whole numbers from 1, got 0"),
        ("  hardware.gpus:", "  parallelism.tp: [1]\n  hardware.gpus:",
         "1: parallelism.tp stands in `vary` and `splits` sets it too; keep one"),
        ("power: 1 MW", "ttft: 1 s", "8: constraints.ttft: ttft is a limit of inference; the run is of kind training"),
        ("[money, time]", "[ttft]", "9: objectives: ttft is an objective of inference; the run is of kind training"),
        ("prices: {h100-sxm: 2.95 USD/h, b200-sxm: 5.50 USD/h}", "prices: rental-2024",
         "3: prices: unknown price table 'rental-2024'. Did you mean 'rental-2025'?"),
        ("h100-sxm: 2.95 USD/h", "h100-sxm: 2.95",
         "3: prices: h100-sxm: 2.95 has no unit; a price per hour is written like '2.95 USD/h'"),
        ("[h100-sxm, b200-sxm]", "devices where memry >= 80 GiB",
         "5: vary.hardware.device: devices have no 'memry' to choose by. Did you mean 'memory'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PLAN
    file = written(tmp_path, PLAN.replace(old, new))
    with pytest.raises(SpecError) as error:
        read_plan(file)
    assert str(error.value).removesuffix(" (1 more)") == f"{file}:{message}"


def test_nothing_to_vary_is_no_plan(tmp_path: Path) -> None:
    file = written(tmp_path, "name: p\nrun: mixtral-8x7b-64xh100\n")
    with pytest.raises(SpecError, match="nothing varies; give `vary` or `splits`"):
        read_plan(file)


def test_money_needs_a_price(tmp_path: Path) -> None:
    run = "run: {name: r, kind: training, model: mixtral-8x7b, hardware: {device: h100-sxm, gpus: 64},"
    work = " training: {global_batch: 64, seq_len: 4096, tokens: 1e12}}"
    file = written(tmp_path, f"name: p\n{run}{work}\nsplits: legal\n")
    message = "money matters here and no price is given; add `prices` or economics.gpu_hour to the run"
    with pytest.raises(SpecError, match=message):
        read_plan(file)


def test_overrides_reach_the_plan_and_its_run(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path), ["constraints.deadline=20 d", "training.seq_len=8192", "objectives=[time]"])
    assert plan.constraints.deadline == 20 * 86400
    assert plan.objectives == ("time",)
    assert isinstance(plan.run, dict)
    assert plan.run["training"]["seq_len"] == 8192


def test_devices_are_chosen_by_what_they_are() -> None:
    chosen = select("devices where memory >= 80 GiB and vendor = NVIDIA and domain > 8")
    assert chosen == ["gb200", "gb300"]
    # The driver of an 80 GiB H100 reports 79.6 GiB; what is sold counts.
    assert "h100-sxm" in select("devices where memory >= 80 GiB")
    assert select("devices where priced and bf16 > 1 PFLOP/s", {"h100-sxm", "b200-sxm"}) == ["b200-sxm"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices with memory", "expected 'devices where ...', as in 'devices where memory >= 80 GiB'"),
        ("devices where memory > 1 PiB", "no entry of the catalog passes 'devices where memory > 1 PiB'"),
        ("devices where memory >= 80", "'80' has no unit; a size is written like '80 GiB'"),
        ("devices where vendor > intel", "'vendor > intel' compares words; only = and != can"),
        ("models where small", "'small' is no comparison, such as memory >= 80 GiB"),
    ],
)
def test_choices_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        select(text)


def test_the_shipped_prices_state_their_sources() -> None:
    table = read_prices("rental-2025")
    assert hourly(table.prices["h100-sxm"].rent) == "2.95 USD/h"
    assert rents("rental-2025")["b200-sxm"] == 5.50 / 3600
    assert all(len(price.source) > 20 for price in table.prices.values())


@pytest.mark.parametrize("file", sorted((data_root() / "workloads/plans").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_plans_are_right(file: Path) -> None:
    plan = read_plan(file)
    assert plan.name == file.stem
    assert plan.title
