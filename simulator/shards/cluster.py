"""Shards done by a Dask cluster.

The scheduler gives a dead worker's shards to others; results come back to this machine, which alone writes them, so
that a shard done twice is kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from simulator import __version__
from simulator.errors import SimulatorError, SpecError

if TYPE_CHECKING:
    import pandas

CONNECT_SECONDS = 10.0
KEPT = "with --out what is finished is kept, go on with --resume"


def on_cluster(
    address: str, do: Callable[[Any], pandas.DataFrame], waiting: Mapping[str, Any]
) -> Iterator[tuple[str, pandas.DataFrame]]:
    """Every shard's name and table, as the workers of the scheduler at `address` finish them.

    Raises SpecError where no scheduler answers, SimulatorError where it goes away, where a shard kills one worker after
    the other, or where the workers have another version of this program.
    """
    client = _connect(address)
    from distributed import KilledWorker, as_completed

    try:
        names = {client.submit(_shard, __version__, do, data, pure=False): name for name, data in waiting.items()}
        for future in as_completed(list(names), loop=client.loop):
            name = names.pop(future)
            try:
                frame: pandas.DataFrame = future.result()
            except KilledWorker as error:
                message = f"shard {name} killed every worker it was given to ({error}); {KEPT}"
                raise SimulatorError(message) from None
            except (CancelledError, OSError) as error:
                raise SimulatorError(f"the scheduler at {address} went away ({type(error).__name__}); {KEPT}") from None
            future.release()
            yield name, frame
    finally:
        client.close(timeout=CONNECT_SECONDS)


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise SpecError("--scheduler needs Dask: pip install 'moesim[cluster]'") from None
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # a time-out is an OSError
        message = f"no Dask scheduler answers at {address} ({type(error).__name__}); {KEPT}"
        raise SpecError(message, path="--scheduler") from None


def _shard(version: str, do: Callable[[Any], pandas.DataFrame], data: Any) -> pandas.DataFrame:
    """On a worker: the shard, if the worker runs the same program."""
    if version != __version__:
        raise SimulatorError(f"a worker has moesim {__version__}, this is {version}; install the same on both")
    return do(data)
