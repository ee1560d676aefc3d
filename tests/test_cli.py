"""The command line does what its help says: results on stdout, files whole or not at all, exit codes."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

import simulator
from simulator.cli.output import plain, shipped, write_folder, write_text
from simulator.errors import CoverageError, InfeasibleError, SpecError
from simulator.result import Result
from simulator.spec.base import catalog

Moesim = Callable[..., Outcome]
RUN = "mixtral-8x7b-64xh100"


def done(outcome: Outcome) -> str:
    """The output of a command that must have gone well."""
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def test_version(moesim: Moesim) -> None:
    assert done(moesim("--version")) == f"moesim {simulator.__version__}\n"


@pytest.mark.parametrize("command", ["run", "sweep", "compare", "validate", "models", "devices", "networks", "schema"])
def test_help_teaches_by_example(moesim: Moesim, command: str) -> None:
    assert command in done(moesim("--help"))
    text = done(moesim(command, "--help"))
    assert "Example" in text
    assert f"moesim {command}" in text.split("Example")[1]


def test_run_prints_value_interval_and_basis(moesim: Moesim) -> None:
    text = done(moesim("run", RUN))
    for words in (
        "value",
        "90 % interval",
        "basis",
        "Step time",
        "Throughput",
        "Model FLOPs utilisation",
        "GiB",
    ):
        assert words in text
    assert "46.7 billion parameters, 12.9 billion active" in text.replace("\u00a0", " ")


def test_run_writes_three_files_and_the_same_result_as_json(moesim: Moesim, tmp_path: Path) -> None:
    printed = json.loads(done(moesim("run", RUN, "--json", "--out", "a/b")))
    folder = tmp_path / "a" / "b"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "result.json", "trace.json.gz"]
    assert [path.name for path in folder.parent.iterdir()] == ["b"]
    stored = Result.read(folder / "result.json")
    assert json.loads(stored.model_dump_json()) == printed
    assert stored.step_time_s is not None
    assert stored.step_time_s.low < stored.step_time_s.value < stored.step_time_s.high
    assert (folder / "trace.json.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_set_changes_the_run(moesim: Moesim) -> None:
    changed = json.loads(done(moesim("run", RUN, "--json", "--set", "hardware.gpus=128", "--set", "name=twice")))
    assert (changed["name"], changed["summary"]["gpus"]) == ("twice", 128)


def test_what_would_help_can_be_typed_and_helps(moesim: Moesim) -> None:
    def seconds(*options: str) -> float:
        return float(json.loads(done(moesim("run", RUN, "--json", *options)))["step_time_s"]["value"])

    advice = [line.strip() for line in done(moesim("run", RUN)).split("Would help:")[1].splitlines() if line]
    assert 1 <= len(advice) <= 3
    for line in advice:
        assert "step time \u2212" in line
        assert seconds(*line.split(": ")[0].split(" ")) < seconds()


def test_compare_puts_results_side_by_side(moesim: Moesim, tmp_path: Path) -> None:
    done(moesim("run", RUN, "--out", "one", "--set", "name=one"))
    done(moesim("run", RUN, "--out", "two", "--set", "name=two", "--set", "hardware.device=h200-sxm"))
    text = done(moesim("compare", "one/result.json", "two/result.json", "--out", "page.html"))
    assert "one" in text
    assert "two" in text
    assert "Step time" in text
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


SWEEP = f"""\
name: two-by-two
run: {RUN}
axes:
  hardware.device: [h100-sxm, h200-sxm]
  training.micro_batch: [1, 64]
"""


def test_sweep_ranks_points_and_explains_those_that_cannot_be(moesim: Moesim, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    text = done(moesim("sweep", "sweep.yaml", "--out", "grid"))
    assert "best 2 of 4 points" in text
    assert "2 points simulated, 2 can't be." in text
    assert "  2 like: " in text
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == ["points", "report.html", "sweep.csv"]
    with (tmp_path / "grid" / "sweep.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["ok", "infeasible", "ok", "infeasible"]
    single = json.loads(done(moesim("run", RUN, "--json")))
    assert float(rows[0]["step_time_s"]) == pytest.approx(single["step_time_s"]["value"], rel=1e-12)


def test_two_workers_find_what_one_finds(moesim: Moesim, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    assert done(moesim("sweep", "sweep.yaml", "--workers", "2")) == done(moesim("sweep", "sweep.yaml"))


TABLE = """\
id,quality,kind,name,model.extends,hardware.device,hardware.gpus,training.global_batch,training.seq_len,measured.step_time_s
ours-1,A,training,llama2-7b,llama2-7b,h100-sxm,16,64,4096,1000
ours-2,B,training,llama2-7b,llama2-7b,h100-sxm,128,128,4096,1000
theirs-1,A,training,llama2-7b,llama2-7x,h100-sxm,8,64,4096,1000
"""


def test_validate_scores_every_row_it_can_and_lists_the_others(moesim: Moesim, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8")
    text = done(moesim("validate", "table.csv", "--json", "errors.json"))
    assert "table.csv: 3 rows, 1 refused." in text
    assert "refused: 1 x model.extends: unknown model 'llama2-7x'. Did you mean 'llama2-7b'" in text
    lines = [line.split() for line in text.splitlines()]
    metric, *rows = [line for line in lines if line[:1] == ["step_time_s"]]
    # Nothing takes 1,000 s, so the error is nearly -100 % and no measurement lies in the interval.
    assert (metric[:3], metric[-2:]) == (["step_time_s", "A", "1"], ["0", "%"])
    assert [row[:3] for row in rows] == [["step_time_s", "all", "2"]]
    assert [line[:2] for line in lines if line[:1] in (["ours"], ["theirs"])] == [["ours", "2"]]
    assert [line[:4] for line in lines if "to" in line] == [["10", "to", "99", "1"], ["100", "to", "999", "1"]]
    stored = json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["id"], row["status"]) for row in stored] == [
        ("ours-1", "ok"),
        ("ours-2", "ok"),
        ("theirs-1", "refused"),
    ]
    step = stored[0]["metrics"]["step_time_s"]
    assert step["error"] == pytest.approx(step["predicted"] / 1000 - 1)


@pytest.mark.parametrize("cell", ["fast", "nan", "inf", "1e999"])
def test_validate_refuses_a_row_whose_measurement_is_no_number(moesim: Moesim, tmp_path: Path, cell: str) -> None:
    (tmp_path / "table.csv").write_text(TABLE.replace(",64,4096,1000", f",64,4096,{cell}"), encoding="utf-8")
    text = done(moesim("validate", "table.csv", "--where", "id=ours-1"))
    assert "table.csv: 1 rows, 1 refused." in text
    assert f"refused: 1 x measured.step_time_s: '{cell}' is not a finite number" in text


def test_validate_takes_the_rows_asked_for(moesim: Moesim, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8")
    assert "table.csv: 1 rows, 0 refused." in done(moesim("validate", "table.csv", "--where", "quality=B"))
    both = ("--where", "quality=A", "--where", "hardware.gpus=8")
    assert "table.csv: 1 rows, 1 refused." in done(moesim("validate", "table.csv", *both))


def test_models_as_json_hold_exact_counts(moesim: Moesim) -> None:
    mixtral = json.loads(done(moesim("models", "mixtral-8x7b", "--json")))
    assert (mixtral["parameters"], mixtral["active_parameters"]) == (46_702_792_704, 12_879_925_248)
    # 2 FLOPs per active weight but the embedding, and 4 * 32 layers * 4096 * 2048 attended tokens on average.
    assert mixtral["forward_flops_per_token"] == 2 * (12_879_925_248 - 32_000 * 4096) + 4 * 32 * 4096 * 2048
    assert mixtral["training_flops_per_token"] == 3 * mixtral["forward_flops_per_token"]
    assert mixtral["definition"]["moe_intermediate_size"] == 14336
    listed = {entry["name"]: entry["parameters"] for entry in json.loads(done(moesim("models", "--json")))}
    assert set(listed) == set(catalog("model"))
    assert listed["mixtral-8x7b"] == 46_702_792_704


def test_devices_and_networks_carry_units_in_their_keys(moesim: Moesim) -> None:
    h100 = json.loads(done(moesim("devices", "h100-sxm", "--json")))
    assert h100["memory_bandwidth_bytes_per_s"] == 3.35e12
    assert h100["tdp_w"] == 700
    assert h100["definition"]["memory"]["bandwidth"] == "3.35 TB/s"
    fabric = json.loads(done(moesim("networks", "ib-ndr400-rail", "--json")))
    assert (fabric["link_bytes_per_s"], fabric["node_bytes_per_s"]) == (50e9, 400e9)
    for kind in ("device", "network"):
        assert {entry["name"] for entry in json.loads(done(moesim(f"{kind}s", "--json")))} == set(catalog(kind))


def test_catalogs_for_reading(moesim: Moesim) -> None:
    assert "46,702,792,704" in done(moesim("models", "mixtral-8x7b"))
    assert "46.7 B" in done(moesim("models")).replace("\u00a0", " ")
    assert "989 TFLOP/s" in done(moesim("devices", "h100-sxm")).replace("\u00a0", " ")
    assert "400 GB/s" in done(moesim("networks")).replace("\u00a0", " ")


@pytest.mark.parametrize("command", ["models", "devices", "networks"])
def test_unknown_entries_are_refused_with_the_nearest(moesim: Moesim, command: str) -> None:
    name = {"models": "mixtral-8x7", "devices": "h100-smx", "networks": "ib-ndr400-rial"}[command]
    outcome = moesim(command, name)
    assert outcome.err.startswith(f"error: unknown {command[:-1]} '{name}'. Did you mean '")
    assert (outcome.code, outcome.out) == (2, "")


def test_a_file_of_ones_own_is_shown_too(moesim: Moesim, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: h100-sxm\ntdp: 500 W\n", encoding="utf-8")
    mine = json.loads(done(moesim("devices", "mine.yaml", "--json")))
    assert (mine["name"], mine["tdp_w"]) == ("mine", 500)
    assert mine["definition"] == {"extends": "h100-sxm", "tdp": "500 W"}


@pytest.mark.parametrize("kind", ["run", "sweep", "model", "device", "network", "result"])
def test_schemas_name_the_fields(moesim: Moesim, kind: str) -> None:
    schema = json.loads(done(moesim("schema", kind)))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    expected = {
        "run": "parallelism", "sweep": "axes", "model": "num_hidden_layers", "device": "tdp", "network": "topology",
        "result": "step_time_s",
    }  # fmt: skip
    assert expected[kind] in schema["properties"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SpecError("wrong", file="f.yaml", line=3, path="a.b"), 2, "error: f.yaml:3: a.b: wrong\n"),
        (
            InfeasibleError("needs 91.2 of 80 GiB", breakdown={"weights": 60.0, "kv_cache": 31.2}, suggestion="pp: 8"),
            3,
            "error: needs 91.2 of 80 GiB. Nearest change that fits: pp: 8.\n  weights: 60.0\n  kv cache: 31.2\n",
        ),
        (CoverageError("too far out"), 1, "error: too far out\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_errors_become_exit_codes(
    moesim: Moesim, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("simulator.spec.run.read_run", refuse)
    outcome = moesim("run", RUN)
    assert (outcome.code, outcome.out, outcome.err) == (code, "", message)


def test_a_reader_that_stops_is_no_error(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    script = (
        "import subprocess, sys\n"
        "writer = subprocess.Popen([sys.executable, '-m', 'simulator', 'models', '--json'],\n"
        "                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "writer.stdout.close()\n"
        "print(writer.stderr.read().decode(), writer.wait())\n"
    )
    assert python("-c", script).stdout.split() == ["1"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir()
    (old / "result.json").write_text("before")

    def fail_half_way(folder: Path) -> None:
        with write_folder(folder) as scratch:
            (scratch / "result.json").write_text("after")
            raise ZeroDivisionError

    for folder in (new, old):
        with pytest.raises(ZeroDivisionError):
            fail_half_way(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "result.json"]
    assert (old / "result.json").read_text() == "before"
    (old / "notes.txt").write_text("mine")
    with write_folder(old) as scratch:
        (scratch / "result.json").write_text("after")
    assert {path.name: path.read_text() for path in old.iterdir()} == {"result.json": "after", "notes.txt": "mine"}


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "page.html", "whole")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["page.html"]
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a" / "page.html", "half \ud800")
    assert (tmp_path / "a" / "page.html").read_text() == "whole"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["page.html"]
    with pytest.raises(SpecError, match=r"page\.html/b: can't write here: File exists$"):
        write_text(tmp_path / "a" / "page.html" / "b", "text")


def test_plain_text_keeps_letters_and_disarms_control() -> None:
    assert plain("Zürich 模型 50\u00a0% \u2212 a\tb\nc") == "Zürich 模型 50\u00a0% \u2212 a\tb\nc"
    assert plain("\x1b[2J\r\u202e\u2028") == r"\x1b[2J\r\u202e\u2028"


def test_shipped_files_go_by_their_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped(RUN, "runs").name == f"{RUN}.yaml"
    assert shipped(f"{RUN}.yaml", "runs") == Path(f"{RUN}.yaml")
    (tmp_path / RUN).mkdir()
    assert shipped(RUN, "runs").is_file()
    with pytest.raises(SpecError, match=r"^no file '\.\.' and no shipped one of that name\."):
        shipped("..", "runs")
