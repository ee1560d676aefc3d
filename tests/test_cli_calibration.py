"""The commands that measure and import, as a user types them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Outcome

TABLE = str(ROOT / "hardware_profiles/measured/a100-sxm-80gb.csv")


def test_a_table_becomes_a_profile(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    done = moesim("calibrate", "--from", TABLE, "--out", str(tmp_path))
    assert done.code == 0, done.err
    assert (tmp_path / "fitted/a100-sxm-80gb.yaml").is_file()
    assert "gemm bf16" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "say --device cpu or cuda:0 to measure, or --from SOURCE to import"),
        (("--from", "missing.csv"), 1, "missing.csv: no such table"),
    ],
)
def test_calibrate_refuses(
    moesim: Callable[..., Outcome], tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = moesim("calibrate", *arguments, "--out", str(tmp_path / "out"))
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err


def test_verify_needs_a_profile_that_is_there(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    done = moesim("verify", "--profile", str(tmp_path / "prices.yaml"))
    assert done.code in (1, 2)
    assert "prices.yaml" in done.err
