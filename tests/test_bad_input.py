"""Whatever a user gets wrong: one message on stderr, the right exit code, nothing on stdout, nothing on disk."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

RUN = """\
name: toy
kind: training
model: mixtral-8x7b
hardware: {device: h100-sxm, gpus: 64}
parallelism:
  pp: 4
  ep: 8
training:
  global_batch: 256
  seq_len: 4096
"""

Moesim = Callable[..., Outcome]


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A good run file in the folder the command runs in."""
    path = tmp_path / "toy.yaml"
    path.write_text(RUN, encoding="utf-8")
    return path


def assert_refused(outcome: Outcome, code: int, message: str) -> None:
    """One message of one line, no result, no traceback."""
    assert outcome.err == f"error: {message}\n"
    assert (outcome.code, outcome.out) == (code, "")


def test_the_run_these_cases_spoil_is_good(moesim: Moesim, run_file: Path) -> None:
    outcome = moesim("run", "toy.yaml", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)["name"] == "toy"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (("gpus: 64", "gpu: 64"), "toy.yaml:4: hardware.gpu: unknown key 'gpu'. Did you mean 'gpus'? (1 more)"),
        (("  ep: 8", "  epp: 8"), "toy.yaml:7: parallelism.epp: unknown key 'epp'. Did you mean "),
        (("kind: training\n", ""), "toy.yaml:1: kind: missing; it is required"),
        (("  seq_len: 4096\n", ""), "toy.yaml:8: training.seq_len: missing; it is required"),
        (("ep: 8", "ep: 8\n  ep: 4"), "toy.yaml:8: parallelism.ep: this key stands twice"),
        (("ep: 8", "ep: many"), "toy.yaml:7: parallelism.ep: Input should be a valid integer"),
        (
            ("kind: training", "kind: trainning"),
            "toy.yaml:2: kind: Input should be 'training'",
        ),
        (("model: mixtral-8x7b", "model: mixtral-8x7"), "toy.yaml:3: model: unknown model 'mixtral-8x7'. Did you mean"),
        (("h100-sxm", "h100-smx"), "toy.yaml:4: hardware.device: unknown device 'h100-smx'. Did you mean 'h100-sxm'"),
        (("model: mixtral-8x7b", "model: &m mixtral-8x7b\nname2: *m"), "toy.yaml:3: name2: YAML anchors and aliases"),
        (
            ("model: mixtral-8x7b", "model: !!python/name:os.system x"),
            "toy.yaml:3: model: YAML tag !!python/name:os.system",
        ),
        (("ep: 8", "ep: [8"), "toy.yaml:8: not valid YAML: "),
    ],
)
def test_spoilt_files(moesim: Moesim, run_file: Path, spoil: tuple[str, str], message: str) -> None:
    run_file.write_text(RUN.replace(*spoil), encoding="utf-8")
    outcome = moesim("run", "toy.yaml", "--out", "report")
    assert outcome.err.startswith(f"error: {message}")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert [path.name for path in run_file.parent.iterdir()] == ["toy.yaml"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "'nonsense' is not of the form path=value, such as parallelism.tp=4"),
        ("=4", "'=4' is not of the form path=value, such as parallelism.tp=4"),
        ("parallelism.tpp=4", "toy.yaml:5: parallelism.tpp: unknown key 'tpp'. Did you mean"),
        ("parallelism.tp=0", "toy.yaml:5: parallelism.tp: Input should be greater than 0, got 0"),
        ("parallelism.tp=-8", "toy.yaml:5: parallelism.tp: Input should be greater than 0, got -8"),
        ("parallelism.tp=1.5", "toy.yaml:5: parallelism.tp: Input should be a valid integer"),
        ("parallelism.tp=.nan", "toy.yaml:5: parallelism.tp: Input should be a finite number, got nan"),
        ("parallelism.tp=.inf", "toy.yaml:5: parallelism.tp: Input should be a finite number, got inf"),
        ("parallelism.tp=", "toy.yaml:5: parallelism.tp: Input should be a valid integer, got None"),
        ("parallelism.tp=[1", "--set:1: not valid YAML: "),
        ("parallelism.tp=!!python/name:os.system x", "--set:1: value: YAML tag !!python/name:os.system is not allowed"),
        ("kind=serving-ish", "toy.yaml:2: kind: Input should be "),
        ("kind.deeper=1", "toy.yaml:2: kind: Input should be "),
        ("hardware.gpus=0", "toy.yaml:4: hardware.gpus: Input should be greater than or equal to 1, got 0"),
        ("hardware.gpus=12", "toy.yaml:4: hardware: gpus (12) must be a multiple of gpus_per_node (8) beyond one node"),
        ("hardware.gpus=99999999999", "toy.yaml:4: hardware.gpus: Input should be less than or equal to 4194304"),
        (
            "hardware.device.tdp=500",
            "toy.yaml:4: hardware.device.tdp: 500 has no unit; a power is written like '700 W'",
        ),
        ("hardware.device.tdp=500 GiB", "toy.yaml:4: hardware.device.tdp: '500 GiB' is not a power; write it like"),
        ("hardware.device=../devices/h100-sxm", "toy.yaml:4: hardware.device: unknown device '../devices/h100-sxm'."),
        ("hardware.device=/etc/passwd.yaml", "toy.yaml:4: hardware.device: /etc/passwd.yaml: no such file"),
        ("model=../../etc/passwd", "toy.yaml:3: model: unknown model '../../etc/passwd'."),
        ("model=<script>alert(1)</script>", "toy.yaml:3: model: unknown model '<script>alert(1)</script>'."),
        ("model.hidden_size=-1", "toy.yaml:3: model.hidden_size: Input should be greater than 0, got -1"),
        ("model.num_experts_per_tok=9", "toy.yaml:3: model: "),
        ("training.global_batch=0", "toy.yaml:9: training.global_batch: Input should be greater than 0, got 0"),
        ("training.seq_len=1000000000000", "toy.yaml:10: training.seq_len: Input should be less than or equal to"),
        ("training.tokens=-1", "toy.yaml:8: training.tokens: Input should be greater than 0, got -1"),
        ("training.precision=fp7", "toy.yaml:8: training.precision: Input should be 'fp32', "),
        (
            "economics.gpu_hour=2.95",
            "toy.yaml:1: economics.gpu_hour: 2.95 has no unit; a price per hour is written like",
        ),
        ("economics.gpu_hour=-1 USD/h", "toy.yaml:1: economics.gpu_hour: '-1 USD/h' must be at least 0"),
        ("framework=megatron", "toy.yaml:1: framework: unknown framework 'megatron'. Did you mean 'megatron-"),
        ("name=", "toy.yaml:1: name: Input should be a valid string, got None"),
    ],
)
def test_wrong_overrides(moesim: Moesim, run_file: Path, override: str, message: str) -> None:
    outcome = moesim("run", "toy.yaml", "--set", override, "--out", "report", "--json")
    assert outcome.err.startswith(f"error: {message}")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert [path.name for path in run_file.parent.iterdir()] == ["toy.yaml"]


@pytest.mark.parametrize(
    ("override", "names"),
    [
        (("parallelism.tp=3",), "parallelism"),
        (("parallelism.pp=128", "parallelism.ep=1"), "parallelism"),
        (("training.global_batch=255",), "global_batch"),
        (("hardware.gpus=8", "parallelism.pp=1"), "needs"),
    ],
)
def test_runs_that_cannot_be(moesim: Moesim, run_file: Path, override: tuple[str, ...], names: str) -> None:
    changes = [word for change in override for word in ("--set", change)]
    outcome = moesim("run", "toy.yaml", *changes, "--out", "report", "--json")
    assert outcome.err.startswith("error: ")
    assert names in outcome.err
    assert (outcome.code, outcome.out) == (3, "")
    assert [path.name for path in run_file.parent.iterdir()] == ["toy.yaml"]


def test_files_that_are_no_runs(moesim: Moesim, tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "folder.yaml").mkdir()
    assert_refused(moesim("run", "binary.yaml"), 2, "binary.yaml: not text: expected UTF-8 YAML")
    assert_refused(moesim("run", "huge.yaml"), 2, "huge.yaml: larger than 1048576 bytes: this is no run file")
    assert_refused(moesim("run", "empty.yaml"), 2, "empty.yaml: the file is empty")
    assert_refused(moesim("run", "folder.yaml"), 2, "folder.yaml: no such file")
    assert_refused(moesim("run", "absent.yaml"), 2, "absent.yaml: no such file")
    assert_refused(moesim("run", "y" * 300 + ".yaml"), 2, f"{'y' * 300}.yaml: can't be read: File name too long")
    outcome = moesim("run", "mixtral-8x7b-64xh10")
    assert outcome.err.startswith("error: no file 'mixtral-8x7b-64xh10' and no shipped one of that name. Did you mean")
    assert outcome.code == 2


def test_a_terminal_is_not_steered_by_a_file(moesim: Moesim, run_file: Path) -> None:
    run_file.write_text(RUN.replace("mixtral-8x7b", '"\\e[2J\\u202Emixtral"'), encoding="utf-8")
    outcome = moesim("run", "toy.yaml")
    assert outcome.err.startswith(r"error: toy.yaml:3: model: unknown model '\x1b[2J\u202emixtral'.")
    assert outcome.err.isprintable() or outcome.err.count("\n") == 1
    assert "\x1b" not in outcome.err


def test_a_name_with_markup_stays_text(moesim: Moesim, run_file: Path) -> None:
    name = "<script>alert(1)</script>[bold]../../x[/bold]"
    outcome = moesim("run", "toy.yaml", "--set", f"name='{name}'", "--out", "report")
    assert (outcome.code, outcome.err) == (0, "")
    assert name in outcome.out
    report = (run_file.parent / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report
    assert sorted(path.name for path in run_file.parent.iterdir()) == ["report", "toy.yaml"]


def test_an_output_folder_that_cannot_be(moesim: Moesim, run_file: Path) -> None:
    assert_refused(
        moesim("run", "toy.yaml", "--out", "toy.yaml"), 2, "toy.yaml: --out names a file; a folder is needed"
    )
    assert_refused(
        moesim("run", "toy.yaml", "--out", "toy.yaml/below"), 2, "toy.yaml/below: can't write here: File exists"
    )
    assert run_file.read_text(encoding="utf-8") == RUN


def test_results_that_are_none(moesim: Moesim, tmp_path: Path) -> None:
    for name, text in {"text": "hello", "list": "[]", "old": '{"schema_version": 0}', "bare": "{}"}.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    for name in ("text", "list", "old", "bare", "binary", "absent"):
        outcome = moesim("compare", f"{name}.json", "--out", "page.html")
        assert outcome.err.startswith(f"error: {name}.json: ")
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: s\nrun: toy.yaml\n", "sweep.yaml:1: axes: missing; it is required"),
        ("name: s\nrun: toy.yaml\naxes: {}\n", "sweep.yaml:3: axes: "),
        ("name: s\nrun: toy.yaml\naxes: {parallelism.tp: []}\n", "sweep.yaml:3: axes.parallelism.tp: "),
        (
            "name: s\nrun: toy.yaml\naxes: {parallelism.tpp: [1]}\n",
            "sweep.yaml:3: axes.parallelism.tpp.0: unknown key 'tpp'.",
        ),
        ("name: s\nrun: absent.yaml\naxes: {parallelism.tp: [1]}\n", "absent.yaml: no such file"),
        ("name: s\nrun: nothing\naxes: {parallelism.tp: [1]}\n", "sweep.yaml:2: run: "),
        ("name: s\nrun: toy.yaml\naxes: {training.micro_batch: [one]}\n", "sweep.yaml:3: axes.training.micro_batch"),
    ],
)
def test_spoilt_sweeps(moesim: Moesim, run_file: Path, text: str, message: str) -> None:
    (run_file.parent / "sweep.yaml").write_text(text, encoding="utf-8")
    outcome = moesim("sweep", "sweep.yaml", "--out", "grid")
    assert outcome.err.startswith(f"error: {message}")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert sorted(path.name for path in run_file.parent.iterdir()) == ["sweep.yaml", "toy.yaml"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (b"", (), "table.csv: column id is missing; a validation table has id, kind and measured.*"),
        (b"id,measured.x\n", (), "table.csv: column kind is missing; a validation table has id, kind and measured.*"),
        (b"\x89PNG\xff", (), "table.csv: can't be read as CSV: "),
        (b"id,kind\na,b\na,b,c\n", (), "table.csv:3: as many cells as the header has are needed"),
        (b"kind,id\na\n", (), "table.csv:2: as many cells as the header has are needed"),
        (b"id,kind\na,training\n", ("--where", "kin=training"), "table.csv: no column 'kin'. Did you mean 'kind'"),
        (b"id,kind\n", ("--where", "kind"), "'kind' is not of the form column=value, such as quality=A"),
    ],
)
def test_tables_that_are_none(
    moesim: Moesim, tmp_path: Path, text: bytes, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "table.csv").write_bytes(text)
    outcome = moesim("validate", "table.csv", "--json", "out.json", *options)
    assert outcome.err.startswith(f"error: {message}")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    "arguments",
    [(), ("fly",), ("run",), ("run", "a.yaml", "--fast"), ("schema", "house"), ("sweep", "s", "--workers", "0")],
)
def test_a_wrong_command_line_is_explained(moesim: Moesim, arguments: tuple[str, ...]) -> None:
    outcome = moesim(*arguments)
    assert outcome.code == 2
    assert "Usage: moesim" in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


def test_the_exit_code_of_the_process(python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = python("-m", "simulator", "run", "absent.yaml", "--out", "report")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: absent.yaml: no such file\n")
    assert list(tmp_path.iterdir()) == []
