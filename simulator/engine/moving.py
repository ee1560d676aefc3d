"""Links with a clock: transfers join them in SimPy's time, share them fairly, and leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.engine.flows import Flow, Links, Transfer


class Moving:
    """Transfers on links. One that finds room runs at its cap; otherwise those joined to it by links share anew."""

    def __init__(self, environment: Any, links: Links) -> None:
        self.environment, self.links = environment, links

    def move(self, transfer: Transfer, stream: str = "") -> Any:
        """Put a transfer on its links now; the event that it is done."""
        now = self.environment.now
        done = self.environment.event()
        flow = Flow(transfer, now, done, stream)
        self._set(self.links.join(flow, now), now)
        return done

    def arrived(self, flow: Flow, now: float) -> None:
        """What is to be noted of a flow that is done."""

    def _set(self, changes: Sequence[tuple[Flow, float]], now: float) -> None:
        """New rates, and timers for when the flows would end at them."""
        for flow, rate in changes:
            flow.left -= flow.rate * (now - flow.since)
            flow.rate, flow.since = rate, now
            flow.timer += 1
            timer = self.environment.timeout(max(0.0, flow.left / rate), (flow, flow.timer))
            timer.callbacks.append(self._expired)

    def _expired(self, timer: Any) -> None:
        flow, number = timer.value
        if flow.timer == number:
            now = self.environment.now
            self._set(self.links.leave(flow, now), now)
            self.arrived(flow, now)
            flow.done.succeed()
