"""A hard budget of money and tokens, shared by workers; the maximum cost of an attempt is reserved first."""

from __future__ import annotations

from collections.abc import Mapping

from scalequest.engines.server_config import ServerConfig

Tokens = tuple[int, int]  # input and output


class Budget:
    """This worker's share of the budget, and how much of it is spent or reserved for attempts in flight.

    Attributes:
        limited: whether there is a budget at all.
        in_flight: the number of attempts with a reservation.
    """

    def __init__(self, config: ServerConfig, spent: Mapping[int, Tokens], worker: tuple[int, int]) -> None:
        """Compute a worker's share from its number, the number of workers, and what each has spent."""
        self._cost = config.cost
        self._money = share(config.budget, {n: config.cost(*tokens) for n, tokens in spent.items()}, *worker)
        self._tokens = share(config.budget_tokens, {n: sum(tokens) for n, tokens in spent.items()}, *worker)
        self._committed: Tokens = (0, 0)
        self.limited = self._money is not None or self._tokens is not None
        self.in_flight = 0

    def covers(self, most: Tokens) -> bool:
        """Return whether an attempt with this maximum cost cannot exceed the budget."""
        committed = added(self._committed, most)
        money = self._money is None or self._cost(*committed) <= self._money
        return money and (self._tokens is None or sum(committed) <= self._tokens)

    def hold(self, most: Tokens) -> None:
        """Reserve the maximum cost of an attempt."""
        self._committed = added(self._committed, most)
        self.in_flight += 1

    def settle(self, most: Tokens, used: Tokens) -> None:
        """Replace the reservation of an attempt by its actual cost."""
        self._committed = added(added(self._committed, most, -1), used)
        self.in_flight -= 1


def share(whole: float | None, spent: Mapping[int, float], worker: int, workers: int) -> float | None:
    """Return what a worker may still spend of the whole budget; `spent` is what each has spent so far.

    All workers may spend up to the same level: the one at which their sum is the whole budget, minus the
    spending of workers that were above the previous level or no longer exist. Spending up to the level does
    not change it, so a worker that restarts in the middle of a launch computes the same level.
    """
    if whole is None:
        return None
    whole -= sum(of for number, of in spent.items() if number >= workers)
    below = sorted(spent.get(number, 0.0) for number in range(workers))
    while below and below[-1] * len(below) > whole:
        whole -= below.pop()
    return whole / len(below) - spent.get(worker, 0.0) if below else 0.0


def added(one: Tokens, other: Tokens, sign: int = 1) -> Tokens:
    """Return the sum of two counts, or with `sign` -1 their difference."""
    return one[0] + sign * other[0], one[1] + sign * other[1]
