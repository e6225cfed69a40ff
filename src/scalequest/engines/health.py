"""Whether a chat server is well: when a question that fails is given up alone, and when the run stops."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scalequest.engines.budget import Tokens, added
from scalequest.engines.chat_protocol import Again

_ITS_OWN = frozenset((0, 200, 500))  # may be the question's own fault; the rest of those asked again is not


@dataclass
class Met:
    """What one question has met so far."""

    requests: int = 0  # attempts
    billed: Tokens = (0, 0)  # for those that failed
    latest: Again | None = None  # failure
    suspect: int = 0  # failures that may be its own fault
    since: tuple[float, int] = (0.0, 0)  # moment of the first suspect one, and how many were answered by then


class Health:
    """What all questions together have met.

    Attributes:
        in_flight: questions that are being asked.
        answered: questions that have an answer.
    """

    def __init__(self, attempts: int, concurrency: int) -> None:
        """Nothing has been asked yet."""
        self._attempts, self._concurrency = attempts, concurrency
        self.in_flight = self.answered = 0
        self._in_a_row = 0  # attempts that failed since any was answered
        self._well = 0.0  # when the latest attempt that was answered had been sent

    def replied(self, sent: float) -> None:
        """Note an answer to an attempt that was sent at this moment."""
        self._well, self._in_a_row = max(self._well, sent), 0

    def failed(self, met: Met, again: Again) -> None:
        """Note that an attempt failed."""
        met.latest, met.billed = again, added(met.billed, again.billed or (0, 0))
        if again.status in _ITS_OWN:
            met.since = met.since if met.suspect else (time.monotonic(), self.answered)
            met.suspect += 1
        self._in_a_row += 1

    def is_over(self, met: Met) -> bool:
        """Whether to ask a question no more: the fault is its own, or too many attempts in a row have failed.

        Too many are so many that each question in flight can have been asked often enough.
        """
        too_many = self._in_a_row >= self._attempts * self.in_flight
        return self.is_own_fault(met) or (met.requests >= self._attempts and too_many)

    def is_own_fault(self, met: Met) -> bool:
        """Whether a question has failed often enough, and by its own fault: others were answered meanwhile.

        An answer to what was sent earlier shows nothing, because a dying server may still finish it; but if
        nothing fresh is left to be sent, it has to do.
        """
        if met.latest is None or met.latest.status not in _ITS_OWN or met.suspect < self._attempts:
            return False
        moment, answered = met.since
        fresh = self.in_flight >= self._concurrency
        return met.latest.status == 200 or self._well > moment or (not fresh and self.answered > answered)
