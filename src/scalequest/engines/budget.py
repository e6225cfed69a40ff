"""A hard budget of money and tokens, shared by workers: the most that an attempt can cost is held first."""

from __future__ import annotations

from collections.abc import Mapping

from scalequest.engines.server_config import ServerConfig

Tokens = tuple[int, int]  # read and generated


class Budget:
    """This worker's share of the budget, and what of it is spent or held for attempts in flight.

    Attributes:
        limited: whether there is a budget at all.
        in_flight: how many attempts something is held for.
    """

    def __init__(self, config: ServerConfig, spent: Mapping[int, Tokens], worker: tuple[int, int]) -> None:
        """Take the share of a worker, given its number, their count, and what each has spent before."""
        self._cost = config.cost
        self._money = share(config.budget, {n: config.cost(*tokens) for n, tokens in spent.items()}, *worker)
        self._tokens = share(config.budget_tokens, {n: sum(tokens) for n, tokens in spent.items()}, *worker)
        self._committed: Tokens = (0, 0)
        self.limited = self._money is not None or self._tokens is not None
        self.in_flight = 0

    def covers(self, most: Tokens) -> bool:
        """Whether an attempt that costs at most so many tokens cannot exceed the budget."""
        committed = added(self._committed, most)
        money = self._money is None or self._cost(*committed) <= self._money
        return money and (self._tokens is None or sum(committed) <= self._tokens)

    def hold(self, most: Tokens) -> None:
        """Hold the most that an attempt can cost."""
        self._committed = added(self._committed, most)
        self.in_flight += 1

    def settle(self, most: Tokens, used: Tokens) -> None:
        """Replace what was held for an attempt by what it came to."""
        self._committed = added(added(self._committed, most, -1), used)
        self.in_flight -= 1


def share(whole: float | None, spent: Mapping[int, float], worker: int, workers: int) -> float | None:
    """What a worker may still spend of the whole; `spent` is what each has spent already.

    All may reach the same level: the one at which their sum is the whole, less what those spent that were
    above the level before or no longer exist. Spending up to the level does not move it, so that a worker
    that starts again in the middle of a launch finds the same one.
    """
    if whole is None:
        return None
    whole -= sum(of for number, of in spent.items() if number >= workers)
    below = sorted(spent.get(number, 0.0) for number in range(workers))
    while below and below[-1] * len(below) > whole:
        whole -= below.pop()
    return whole / len(below) - spent.get(worker, 0.0) if below else 0.0


def added(one: Tokens, other: Tokens, sign: int = 1) -> Tokens:
    """Sum of two counts, or with `sign` -1 their difference."""
    return one[0] + sign * other[0], one[1] + sign * other[1]
