"""How many steps a sequence needs for its tokens where drafted ones hold at random."""

from __future__ import annotations

from bisect import bisect_left

from simulator.spec.speculative import Speculative

POOL = 1 << 16
"""Steps drawn once; sequences take theirs from it in turn, and around again."""


class Acceptance:
    """Gains of steps, drawn once: one token and as many drafted ones as hold before the first that doesn't."""

    def __init__(self, speculative: Speculative, seed: int) -> None:
        import numpy as np

        draws = np.random.default_rng(seed).random((POOL, speculative.tokens)) < speculative.acceptance
        gains = 1 + np.cumprod(draws, axis=1).sum(axis=1)
        self._sums: list[int] = [0, *np.cumsum(gains).tolist()]
        self._at = 0

    def steps(self, tokens: int) -> int:
        """Steps until a sequence has so many tokens more; at least as many in the last one."""
        rounds, rest = divmod(tokens, self._sums[-1])
        start = self._at
        wanted = self._sums[start] + rest
        wraps = wanted > self._sums[-1]
        end = bisect_left(self._sums, wanted - self._sums[-1] if wraps else wanted)
        self._at = end % POOL
        return rounds * POOL + end - start + (POOL if wraps else 0)
