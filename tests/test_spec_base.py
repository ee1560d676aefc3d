"""Bad YAML is refused with file, line, field path, what was expected and the nearest valid name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from simulator.errors import SpecError, nearest
from simulator.spec.base import (
    MAX_DEPTH,
    MAX_FILE_BYTES,
    Spec,
    catalog,
    data_root,
    parse_document,
    read_catalog,
    read_document,
    validate,
)
from simulator.units import Bandwidth, Size


class Link(Spec):
    bandwidth: Bandwidth
    lanes: int = 1


class Machine(Spec):
    name: str
    memory: Size
    kind: Literal["cpu", "gpu"] = "gpu"
    links: tuple[Link, ...] = ()
    uplink: Link | None = None


GOOD = "name: toy\nmemory: 80 GiB\nuplink:\n  bandwidth: 3.35 TB/s\n"


def refusal(text: str) -> str:
    """What `text`, read as a Machine from m.yaml, is refused with."""
    with pytest.raises(SpecError) as caught:
        validate(Machine, parse_document(text, "m.yaml"))
    return str(caught.value)


def test_a_good_file_becomes_si_floats() -> None:
    machine = validate(Machine, parse_document(GOOD))
    assert machine.memory == 80 * 2**30
    assert machine.uplink is not None
    assert machine.uplink.bandwidth == 3.35e12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: toy\nmemroy: 80 GiB\n", "m.yaml:2: memroy: unknown key 'memroy'. Did you mean 'memory'? (1 more)"),
        (
            GOOD + "  bandwith: 1 GB/s\n",
            "m.yaml:5: uplink.bandwith: unknown key 'bandwith'. Did you mean 'bandwidth'?",
        ),
        (
            "name: toy\nmemory: 80 GiB\nqqq: 1\n",
            "m.yaml:3: qqq: unknown key 'qqq'. Known: kind, links, memory, name, uplink.",
        ),
        ("Name: toy\n", "m.yaml:1: Name: unknown key 'Name'. Did you mean 'name'? (2 more)"),
        (GOOD + "  'a[0]': 1\n", "m.yaml:5: uplink.a[0]: unknown key 'a[0]'. Known: bandwidth, lanes."),
        (GOOD + "  Lanes: 1\n", "m.yaml:5: uplink.Lanes: unknown key 'Lanes'. Did you mean 'lanes'?"),
        ("name: toy\n", "m.yaml:1: memory: missing; it is required"),
        (GOOD + "links:\n- {lanes: 2}\n", "m.yaml:6: links.0.bandwidth: missing; it is required"),
        ("name: toy\nmemory: 80\n", "m.yaml:2: memory: 80 has no unit; a size is written like '80 GiB'"),
        ("name: toy\nmemory: '80'\n", "m.yaml:2: memory: '80' has no unit; a size is written like '80 GiB'"),
        ("name: toy\nmemory: 80 W\n", "m.yaml:2: memory: '80 W' is not a size; write it like '80 GiB'"),
        ("name: toy\nmemory: 80 GB/s\n", "m.yaml:2: memory: '80 GB/s' is not a size; write it like '80 GiB'"),
        ("name: toy\nmemory: -1 GiB\n", "m.yaml:2: memory: '-1 GiB' must be above 0"),
        ("name: toy\nmemory: lots\n", "m.yaml:2: memory: 'lots' is not a size; write it like '80 GiB'"),
        ("name: toy\nmemory: 1e999 B\n", "m.yaml:2: memory: '1e999 B' is not finite"),
        ("name: [toy]\nmemory: 1 GiB\n", "m.yaml:1: name: Input should be a valid string, got ['toy']"),
        (GOOD + "kind: tpu\n", "m.yaml:5: kind: Input should be 'cpu' or 'gpu', got 'tpu'"),
        (
            GOOD + "  lanes: many\n",
            "m.yaml:5: uplink.lanes: Input should be a valid integer, unable to parse string as an integer, got 'many'",
        ),
    ],
)
def test_wrong_fields(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m.yaml: the file is empty"),
        ("# only a comment\n", "m.yaml: the file is empty"),
        ("- a\n- b\n", "m.yaml:1: expected a mapping of keys to values"),
        ("just words\n", "m.yaml:1: expected a mapping of keys to values"),
        ("a: 1\nb:\n  c: 2\n  c: 3\n", "m.yaml:4: b.c: this key stands twice"),
        ("a: 1\n[x]: 2\n", "m.yaml:2: a key must be a plain word"),
        ("a: 1\nb: 'open\n", "m.yaml:3: not valid YAML: found unexpected end of stream"),
        ("a:\n\t- 1\n", "m.yaml:2: not valid YAML: found character '\\t' that cannot start any token"),
        ("--- {a: 1}\n--- {b: 1}\n", "m.yaml:2: not valid YAML: but found another document"),
        ("a: 2024-13-45\n", "m.yaml:1: a: can't read the value '2024-13-45'"),
        (
            "a: 1\nb: !!python/object:os.system {}\n",
            "m.yaml:2: b: YAML tag !!python/object:os.system is not allowed here",
        ),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "m.yaml:1: a: YAML tag !!python/object/apply:os.system is not allowed here",
        ),
        ("a: !mine 3\n", "m.yaml:1: a: YAML tag !mine is not allowed here"),
    ],
)
def test_wrong_yaml(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_document(text, "m.yaml")
    assert str(caught.value) == message


def test_an_anchor_bomb_is_refused_at_its_first_alias() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    assert refusal(bomb) == "m.yaml:1: b.0: YAML anchors and aliases are not allowed here"


def test_a_structure_that_holds_itself_is_refused() -> None:
    assert refusal("a: &a [*a]\n") == "m.yaml:1: a.0: YAML anchors and aliases are not allowed here"


def test_depth_is_bounded() -> None:
    allowed = parse_document("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    assert list(allowed.data) == ["a"]
    with pytest.raises(SpecError, match=rf"^m\.yaml:1: a(\.0)+: nested deeper than {MAX_DEPTH} levels$"):
        parse_document("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "m.yaml")
    with pytest.raises(SpecError, match=r"^m\.yaml: not valid YAML: maximum recursion depth exceeded"):
        parse_document("[" * 500, "m.yaml")


def test_a_number_of_a_million_digits_is_refused_in_one_short_line() -> None:
    assert refusal("name: " + "9" * 1_000_000) == f"m.yaml:1: name: can't read the value '{'9' * 80}'"


def test_files_that_are_no_text(tmp_path: Path) -> None:
    binary, huge, full = tmp_path / "b.yaml", tmp_path / "h.yaml", tmp_path / "f.yaml"
    binary.write_bytes(b"\x93NUMPY\x01\xff\xfe")
    huge.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    full.write_bytes(b"a: 1\n" + b"#" * (MAX_FILE_BYTES - 5))
    for path, message in {
        binary: "not text: expected UTF-8 YAML",
        huge: "larger than 1048576 bytes: this is no run file",
        tmp_path: "no such file",
        tmp_path / "absent.yaml": "no such file",
        tmp_path / ("x" * 300): "can't be read: File name too long",
    }.items():
        with pytest.raises(SpecError) as caught:
            read_document(path)
        assert str(caught.value) == f"{path}: {message}"
    assert read_document(full).data == {"a": 1}


def test_a_control_character_is_refused() -> None:
    assert refusal('name: "\x01"') == (
        "m.yaml: not valid YAML: unacceptable character #x0001: special characters are not allowed"
    )


def test_document_errors_take_the_line_of_the_nearest_parent() -> None:
    document = parse_document("a:\n  b: 1\nc: 2\n", "m.yaml")
    assert str(document.error("wrong", ("a", "b"))) == "m.yaml:2: a.b: wrong"
    assert str(document.error("wrong", ("c", "d", "e"))) == "m.yaml:3: c.d.e: wrong"
    assert str(document.error("wrong", ("z",))) == "m.yaml:1: z: wrong"


def test_specs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        validate(Machine, parse_document(GOOD)).name = "other"


def test_nearest_names() -> None:
    known = ["h100-sxm", "h200-sxm", "a100-sxm-80gb"]
    assert nearest("H100-SMX", known) == " Did you mean 'h100-sxm' or 'h200-sxm'?"
    assert nearest("zzz", known) == " Known: a100-sxm-80gb, h100-sxm, h200-sxm."
    assert nearest("zzz", []) == ""
    assert nearest("zzz", [f"n{i:02}" for i in range(13)]).endswith("n10, n11, ....")


def test_catalogs_are_found_and_unknown_names_refused() -> None:
    assert (data_root() / "hardware_profiles").is_dir()
    assert "h100-sxm" in catalog("device")
    assert read_catalog("device", "h100-sxm").data["architecture"] == "hopper"
    with pytest.raises(SpecError, match=r"^unknown device 'h100-smx'\. Did you mean 'h100-sxm'"):
        read_catalog("device", "h100-smx")


@pytest.mark.parametrize("name", ["../models/mixtral-8x7b", "/etc/passwd", "<b>h100</b>", "", "."])
def test_a_catalog_name_is_never_a_path(name: str) -> None:
    with pytest.raises(SpecError, match=r"^unknown device '"):
        read_catalog("device", name)
