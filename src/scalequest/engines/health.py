"""Track the health of a chat server, to decide when to give up on a question and when to stop the run."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scalequest.engines.budget import Tokens, added
from scalequest.engines.chat_protocol import Again

_ITS_OWN = frozenset((0, 200, 500))  # may be the question's own fault; other retryable statuses are not


@dataclass
class Met:
    """The attempts of one question so far."""

    requests: int = 0  # attempts
    billed: Tokens = (0, 0)  # tokens of failed attempts
    latest: Again | None = None  # the latest failure
    suspect: int = 0  # failures that may be the question's own fault
    since: tuple[float, int] = (0.0, 0)  # first suspect failure: its time and the answers until then


class Health:
    """The attempts of all questions together.

    Attributes:
        in_flight: the number of questions being asked.
        answered: the number of questions with an answer.
    """

    def __init__(self, attempts: int, concurrency: int) -> None:
        """Start without any attempts."""
        self._attempts, self._concurrency = attempts, concurrency
        self.in_flight = self.answered = 0
        self._in_a_row = 0  # failed attempts since the last answer
        self._well = 0.0  # when the most recent successful attempt had been sent

    def replied(self, sent: float) -> None:
        """Record an answer to an attempt that was sent at this time."""
        self._well, self._in_a_row = max(self._well, sent), 0

    def failed(self, met: Met, again: Again) -> None:
        """Record a failed attempt."""
        met.latest, met.billed = again, added(met.billed, again.billed or (0, 0))
        if again.status in _ITS_OWN:
            met.since = met.since if met.suspect else (time.monotonic(), self.answered)
            met.suspect += 1
        self._in_a_row += 1

    def is_over(self, met: Met) -> bool:
        """Return whether to give up on a question: it is at fault, or too many attempts in a row failed.

        "Too many" means enough for each question in flight to have been asked often enough.
        """
        too_many = self._in_a_row >= self._attempts * self.in_flight
        return self.is_own_fault(met) or (met.requests >= self._attempts and too_many)

    def is_own_fault(self, met: Met) -> bool:
        """Return whether a question has failed often enough by its own fault, while others were answered.

        Answers to requests sent earlier prove nothing, because a dying server may still finish them; but if
        nothing new is left to send, they have to suffice.
        """
        if met.latest is None or met.latest.status not in _ITS_OWN or met.suspect < self._attempts:
            return False
        moment, answered = met.since
        fresh = self.in_flight >= self._concurrency
        return met.latest.status == 200 or self._well > moment or (not fresh and self.answered > answered)
