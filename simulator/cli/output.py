"""What the commands share: plain printing, finding shipped files, and output that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from simulator.errors import SpecError, nearest
from simulator.spec.base import data_root

_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def plain(text: str) -> str:
    """`text` with control and direction characters as escapes: a name in a file must not steer the terminal."""
    return "".join(c.encode("unicode_escape").decode() if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in _STEERING


def echo(text: str, *, err: bool = False) -> None:
    """Print a line as it stands, with no markup read into it."""
    stream = sys.stderr if err else sys.stdout
    print(plain(text).encode(stream.encoding or "utf-8", "replace").decode(stream.encoding or "utf-8"), file=stream)


def shipped(name: str, folder: str, suffix: str = ".yaml") -> Path:
    """The file a user means: a path, or the bare name of a file shipped in `workloads/<folder>`."""
    if name.endswith(suffix) or "/" in name or os.path.isfile(name):
        return Path(name)
    known = {path.stem: path for path in (data_root() / "workloads" / folder).glob(f"*{suffix}")}
    if name not in known:
        raise SpecError(f"no file '{name[:200]}' and no shipped one of that name.{nearest(name, known)}")
    return known[name]


def refuse_file(out: Path | None) -> None:
    """Refuse an output folder that is a file, before anything is computed."""
    if out is not None and os.path.isfile(out):
        raise SpecError("--out names a file; a folder is needed", file=str(out))


@contextmanager
def write_folder(out: Path) -> Iterator[Path]:
    """A scratch folder whose files move into `out` when the block succeeds; after an error `out` is as it was."""
    home = out if os.path.isdir(out) else out.parent  # on the same file system, so that a move is a rename
    try:
        home.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".moesim-", dir=home))
    except OSError as error:
        raise SpecError(f"can't write here: {error.strerror}", file=str(out)) from None
    try:
        yield scratch
        out.mkdir(exist_ok=True)
        for path in sorted(scratch.iterdir()):
            path.replace(out / path.name)
    except OSError as error:
        raise SpecError(f"can't write here: {error.strerror}", file=str(out)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Write the file whole, by renaming a finished one into its place."""
    scratch = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(file)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise SpecError(f"can't write here: {error.strerror}", file=str(file)) from None


@contextmanager
def progress_bar(things: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that moves a bar on stderr; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(things, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
