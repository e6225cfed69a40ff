from __future__ import annotations

import gzip
import itertools
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_server import Answer, Asked, Behaviour, FaultServer, completion, echo, error
from scalequest.config import ConfigError, to_dict
from scalequest.engines.base import Sampling
from scalequest.engines.budget import Budget, share
from scalequest.engines.chat_protocol import MOST_BYTES, Again, retry_after
from scalequest.engines.health import Health, Met
from scalequest.engines.server import (
    BudgetSpent,
    Chat,
    ChatReply,
    ChatServer,
    ServerConfig,
    ServerError,
    user,
)

GREEDY = Sampling(0.0, 1.0, 64)
QUICK = {"max_wait": 0.02, "timeout": 5.0}


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], FaultServer]]:
    running: list[Any] = []

    def start(behaviour: Behaviour) -> FaultServer:
        manager = FaultServer(behaviour).running()
        running.append(manager)
        return manager.__enter__()

    yield start
    for manager in running:
        manager.__exit__(None, None, None)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def chats(count: int, size: int = 3) -> list[tuple[int, list[Chat]]]:
    rows = [Chat(f"row-{n}", user(f"question {n}"), None) for n in range(count)]
    return [(start // size, rows[start : start + size]) for start in range(0, count, size)]


def ask(
    server: FaultServer,
    work: list[tuple[int, list[Chat]]],
    *,
    journal: Path | None = None,
    worker: tuple[int, int] = (0, 1),
    **settings: Any,
) -> dict[str, ChatReply]:
    config = ServerConfig(**{"url": server.url, "model": "m", **QUICK, **settings})
    replies: dict[str, ChatReply] = {}
    with ChatServer(config, GREEDY, journal=journal, worker=worker) as client:
        for index, block in client.answer(iter(work)):
            assert [reply.key for reply in block] == [chat.key for chat in dict(work)[index]]
            replies |= {reply.key: reply for reply in block}
    return replies


def test_every_question_is_asked_once_and_answered_in_its_place(serve: Any) -> None:
    server = serve(echo)
    replies = ask(server, [*chats(20), (99, [])], concurrency=4)
    assert [replies[f"row-{n}"].text for n in range(20)] == [f"QUESTION {n}" for n in range(20)]
    assert len(server.asked) == 20
    assert {(reply.prompt_tokens, reply.tokens, reply.requests) for reply in replies.values()} == {(10, 5, 1)}
    body = server.asked[0].body
    assert (body["model"], body["temperature"], body["max_tokens"], "seed" in body) == ("m", 0.0, 64, False)


def test_no_more_are_in_flight_than_allowed(serve: Any) -> None:
    together = threading.Barrier(5)

    def behaviour(one: Asked) -> Answer:
        if one.number < 5:
            together.wait(60)
        return Answer(content=echo(one).content, seconds=0.02)

    server = serve(behaviour)
    ask(server, chats(24), concurrency=5, timeout=60.0)
    assert server.most == 5


@pytest.mark.parametrize(
    "fault",
    [
        error(429),
        error(500),
        error(503),
        error(408),
        Answer(200, b"<html>busy</html>"),
        Answer(200, {"choices": []}),
        Answer(200, [1, 2]),
        completion(None),
        completion("half", "abort"),
        Answer(200, b'{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}'),
        None,
    ],
    ids=["429", "500", "503", "408", "html", "empty", "list", "no text", "abort", "surrogate", "nothing"],
)
def test_a_passing_fault_costs_nothing_but_time(serve: Any, fault: Answer | None) -> None:
    server = serve(lambda one: fault if one.attempt == 0 else echo(one))
    replies = ask(server, chats(6))
    assert [replies[f"row-{n}"].text for n in range(6)] == [f"QUESTION {n}" for n in range(6)]
    assert {reply.requests for reply in replies.values()} == {2}
    assert len(server.asked) == 12


DEEP = b"[" * 200_000
COUNTS = [
    *("Infinity", "-Infinity", "NaN", "-1", "-63000000", "1e999", "1e300", "10000001", "9" * 30, "9" * 5000),
    *('"5"', "true", "[]", "{}", "null", "0.5e9", '"Infinity"'),
]


def counting(**counts: str) -> bytes:
    """A reply whose counts are written as they are given, right or wrong."""
    given = {"prompt_tokens": "10", "completion_tokens": "5"} | counts
    usage = ", ".join(f'"{key}": {value}' for key, value in given.items())
    return json.dumps(echo_content() | {"usage": None}).replace("null", f"{{{usage}}}").encode()


@pytest.mark.parametrize("budget", [None, 100_000])
def test_a_count_that_cannot_be_is_no_answer(serve: Any, tmp_path: Path, budget: int | None) -> None:
    """It ends nothing, and takes nothing from a budget but the most that the attempt can have cost."""
    wrong = [counting(**{key: count}) for key in ("prompt_tokens", "completion_tokens") for count in COUNTS]

    def behaviour(one: Asked) -> Answer:
        return Answer(200, wrong[int(one.text.split()[1])]) if one.attempt == 0 else echo(one)

    replies = ask(serve(behaviour), chats(len(wrong)), budget_tokens=budget, journal=tmp_path)
    for n in range(len(wrong)):
        reply, most = replies[f"row-{n}"], len(f"question {n}") + 16 if budget else 0
        assert (reply.text, reply.requests) == (f"QUESTION {n}", 2), wrong[n]
        assert (reply.prompt_tokens, reply.tokens) == (most + 10, 64 + 5 if budget else 5), wrong[n]
    written = [
        json.loads(line) for line in (tmp_path / "answers-00000.jsonl").read_bytes().splitlines() if line
    ]
    for key in ("prompt_tokens", "tokens"):
        assert sum(line[key] for line in written) == sum(getattr(one, key) for one in replies.values())


@pytest.mark.parametrize("count", ["12", "12.0", "0", "-0.0", "1e1", "10000000"])
def test_a_count_that_can_be_is_taken(serve: Any, count: str) -> None:
    reply = ask(serve(lambda _: Answer(200, counting(prompt_tokens=count))), chats(1))["row-0"]
    assert (reply.requests, reply.prompt_tokens) == (1, int(float(count)))


def packed(data: bytes, times: int = 1) -> bytes:
    for _ in range(times):
        data = gzip.compress(data)
    return data


def response(body: bytes | Iterable[bytes], *headers: str, status: str = "200 OK") -> Answer:
    """A response written out, of which every byte can be wrong."""
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{line}\r\n" for line in (*headers, "Connection: close"))
    pieces = [body] if isinstance(body, bytes) else body
    return Answer(raw=itertools.chain([head.encode() + b"\r\n"], pieces))


def dripping(piece: bytes, seconds: float) -> Iterator[bytes]:
    while True:
        yield piece
        time.sleep(seconds)


OK = b"HTTP/1.1 200 OK\r\n"
WRONG: dict[str, Callable[[], Answer]] = {
    "nested reply": lambda: Answer(200, DEEP),
    "nested maps": lambda: Answer(200, b'{"choices":' * 100_000),
    "nested content": lambda: Answer(200, b'{"choices": [{"message": {"content": %s' % DEEP),
    "nested, and whole": lambda: Answer(200, b'{"choices": %s%s}' % (b"[" * 900, b"]" * 900)),
    "nested error": lambda: Answer(500, b'{"error": %s' % DEEP),
    "nested reason": lambda: Answer(
        200,
        b'{"choices": [{"message": {"content": "x"}, "finish_reason": %s%s}]}' % (b"[" * 900, b"]" * 900),
    ),
    "long": lambda: Answer(200, b'"' + b"x" * (MOST_BYTES + 1) + b'"'),
    "long error": lambda: Answer(500, b"x" * (MOST_BYTES + 1)),
    "long, it says": lambda: response(b"{}", f"Content-Length: {10**15}"),
    "without an end": lambda: response(itertools.repeat(b"x" * 100_000)),
    "chunks without an end": lambda: response(
        itertools.repeat(b"10000\r\n" + b"x" * 65536 + b"\r\n"), "Transfer-Encoding: chunked"
    ),
    "a long chunk's head": lambda: response(itertools.repeat(b"0" * 1000), "Transfer-Encoding: chunked"),
    "gzip bomb": lambda: response(packed(bytes(1 << 28)), "Content-Encoding: gzip"),
    "two gzip bombs": lambda: response(packed(bytes(1 << 28), 2), "Content-Encoding: gzip, gzip"),
    "gzip, and is not": lambda: response(b"{}", "Content-Encoding: gzip"),
    "gzip, cut": lambda: response(packed(b"{}" * 1000)[:15], "Content-Encoding: gzip"),
    "another packing": lambda: response(b"{}", "Content-Encoding: br"),
    "many headers": lambda: response(b"{}", *(f"X-{n}: {'x' * 1000}" for n in range(1000))),
    "a long header": lambda: response(b"{}", f"X-Long: {'x' * 1_000_000}"),
    "headers without an end": lambda: Answer(raw=itertools.chain([OK], itertools.repeat(b"X: y\r\n" * 9999))),
    "no status": lambda: Answer(raw=[b"x" * 1000 + b"\r\n\r\n"]),
    "information without an end": lambda: Answer(raw=itertools.repeat(b"HTTP/1.1 100 Go on\r\n\r\n" * 999)),
    "a length below zero": lambda: response(b"{}", "Content-Length: -5"),
    "another character set": lambda: response(b"\xff", "Content-Type: a/b; charset=undefined", status="500"),
    "dripping body": lambda: response(dripping(b" ", 0.05)),
    "dripping headers": lambda: Answer(raw=itertools.chain([OK + b"X: "], dripping(b"y", 0.05))),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_reply_that_is_none_costs_nothing_but_an_attempt(serve: Any, wrong: str) -> None:
    server = serve(lambda one: WRONG[wrong]() if one.attempt == 0 else echo(one))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    replies = ask(server, chats(2), timeout=1.5)
    assert [reply.text for reply in replies.values()] == ["QUESTION 0", "QUESTION 1"]
    assert {reply.requests for reply in replies.values()} == {2}
    assert time.monotonic() - start < 20
    if sys.platform == "linux":  # in KiB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "identity", " GZIP "])
def test_a_packed_reply_is_read(serve: Any, encoding: str) -> None:
    body = json.dumps(echo_content()).encode()
    pack = {"deflate": zlib.compress, "identity": bytes}.get(encoding, gzip.compress)
    server = serve(lambda _: response(pack(body), f"Content-Encoding: {encoding}"))
    assert ask(server, chats(1))["row-0"].text == "text"


def test_what_a_server_says_is_shown_as_plain_text(serve: Any) -> None:
    with pytest.raises(ServerError) as caught:
        ask(serve(lambda _: error(404, "\x1b[2Jgone\ud800\x00 \u202e")), chats(1))
    assert str(caught.value).isprintable()
    assert "gone" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *[
            (text, 0.0)
            for text in ("", "0", "-5", "inf", "-inf", "nan", "NaN", "infinity", "soon", "1e9", "+5")
        ],
        *[
            (text, 0.0)
            for text in ("1_000", "0x10", "٣", "５", "5 s", "5, 7", "\x00", "Thu", "()", "1.2.3", ".")
        ],
        *[("5", 5.0), (" 5 ", 5.0), ("0.5", 0.5), ("3600", 3600.0), ("5.", 5.0)],
        *[(text, 3600.0) for text in ("3601", "99999999", "9" * 400, "9" * 5000, "1" + "0" * 308)],
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        *[(f"Fri, 31 Dec 2049 23:59:59 {zone}", 3600.0) for zone in ("GMT", "+0000", "-1200", "EST")],
        ("Fri, 31 Dec 2049 23:59:59 -0000", 0.0),  # of a zone that is not known
        *[(f"Fri, 31 Dec 2049 23:59:59 +{'9' * many}", 0.0) for many in (4, 20, 400)],
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0.0),
        (f"Fri, 31 Dec {'9' * 400} 23:59:59 GMT", 0.0),
        ("Fri, 99 Foo 2049 99:99:99 GMT", 0.0),
        ("Fri, 31 Dec 0000 23:59:59 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(header: str, seconds: float) -> None:
    assert retry_after(header) == seconds


def test_retry_after_survives_whatever_a_header_can_hold() -> None:
    draw = random.Random(5)
    parts = [
        "Fri, ",
        "31 ",
        "Dec ",
        "2049 ",
        "23:59:59 ",
        "GMT",
        "-",
        "+",
        "9" * 30,
        "(",
        ")",
        '"',
        "\\",
        ":",
        "\xe9",
        ".",
    ]
    for _ in range(3000):
        assert 0 <= retry_after("".join(draw.choices(parts, k=draw.randint(1, 9)))) <= 3600


def test_a_server_that_hangs_is_asked_again(serve: Any) -> None:
    server = serve(lambda one: Answer(200, b"{}", seconds=1.5) if one.number == 0 else echo(one))
    replies = ask(server, chats(2), timeout=0.3)
    assert {reply.text for reply in replies.values()} == {"QUESTION 0", "QUESTION 1"}


def test_retry_after_holds_for_everyone(serve: Any) -> None:
    server = serve(lambda one: error(429, retry_after="1") if one.number == 0 else echo(one))
    start = time.monotonic()
    ask(server, chats(3, size=1), concurrency=1)
    assert time.monotonic() - start >= 1.0
    assert server.times[1] - server.times[0] >= 1.0


def test_retry_after_may_be_a_date(serve: Any) -> None:
    def behaviour(one: Asked) -> Answer:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
        return error(503, retry_after=date) if one.number == 0 else echo(one)

    server = serve(behaviour)
    ask(server, chats(1))
    assert server.times[1] - server.times[0] >= 0.9


def test_a_server_that_never_answers_stops_the_run_and_loses_nothing(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda one: echo(one) if one.number < 4 else error(503, "overloaded"))
    with pytest.raises(ServerError, match=r"no answer after 3 attempts.*503 overloaded.*run again"):
        ask(server, chats(9), concurrency=1, attempts=3, journal=tmp_path)
    server.behaviour = echo
    before = len(server.asked)
    replies = ask(server, chats(9), journal=tmp_path)
    assert len(replies) == 9
    assert len(server.asked) - before == 5, "the four answers that were there are not asked for again"


@pytest.mark.parametrize("dead", ["500", "503", "silent", "gone"])
def test_a_server_that_dies_takes_no_question_along(serve: Any, tmp_path: Path, dead: str) -> None:
    def die() -> None:
        server._server.shutdown()
        server._server.server_close()

    def behaviour(one: Asked) -> Answer | None:
        if one.number < 21:  # those in flight at the end are answered late
            return Answer(content=echo(one).content, seconds=0.1 if one.number > 14 else 0.0)
        if dead == "gone" and one.number == 21:
            threading.Thread(target=die).start()
        return error(int(dead)) if dead.isdigit() else None

    server = serve(behaviour)
    replies: dict[str, ChatReply] = {}
    config = ServerConfig(url=server.url, model="m", attempts=3, concurrency=8, max_wait=0.02, timeout=5.0)
    with ChatServer(config, GREEDY, journal=tmp_path) as client:
        blocks = (block for _, block in client.answer(iter(chats(60, size=1))))
        with pytest.raises(ServerError, match=r"no answer after \d+ attempts"):
            replies.update((reply.key, reply) for block in blocks for reply in block)
    assert {reply.fault for reply in replies.values()} == {None}
    server = serve(echo)
    replies = ask(server, chats(60, size=1), journal=tmp_path)
    assert {key: reply.text for key, reply in replies.items()} == {
        f"row-{n}": f"QUESTION {n}" for n in range(60)
    }
    assert len(server.asked) == 39


def test_who_is_put_off_goes_on_while_others_are_answered(serve: Any) -> None:
    draw = random.Random(4)
    refused = [draw.random() < 0.7 for _ in range(1000)]
    server = serve(lambda one: error(429) if refused[one.number] else echo(one))
    replies = ask(server, chats(60), attempts=3, concurrency=8)
    assert [reply.fault for reply in replies.values()] == [None] * 60
    assert max(reply.requests for reply in replies.values()) > 3


def test_being_put_off_slows_everyone(serve: Any) -> None:
    server = serve(lambda one: error(429) if one.number == 0 else echo(one))
    ask(server, chats(4), concurrency=1, max_wait=0.5)
    assert server.times[1] - server.times[0] >= 0.5


def test_a_question_that_cannot_be_answered_is_given_up_alone(serve: Any) -> None:
    def behaviour(one: Asked) -> Answer:
        bad = {"question 1": error(400, "too long"), "question 2": completion(None)}
        bad["question 3"] = completion("", "content_filter")
        bad["question 4"] = error(500, "broken")
        return bad.get(one.text) or Answer(content=echo(one).content, seconds=0.01)

    replies = ask(serve(behaviour), chats(30, size=30), attempts=3, concurrency=6, max_wait=0.1)
    faults = {key: reply.fault for key, reply in replies.items() if reply.fault}
    assert faults == {
        "row-1": "refused", "row-2": "nonsense", "row-3": "content_filter", "row-4": "no_reply"
    }  # fmt: skip
    assert replies["row-2"].tokens == 15, "three attempts were billed"


def test_a_fault_is_a_questions_own_only_once_others_were_answered_since() -> None:
    health, met = Health(attempts=2, concurrency=1), Met()
    health.in_flight = 1
    before = time.monotonic()
    for _ in range(2):
        met.requests += 1
        health.failed(met, Again("broken", 500))
    assert not health.is_own_fault(met)
    assert health.is_over(met), "two failures in a row, with one question in flight"
    health.replied(before)  # sent before the first failure: a dying server may still finish it
    assert not health.is_own_fault(met)
    assert not health.is_over(met), "not in a row any more"
    health.replied(time.monotonic())
    assert health.is_own_fault(met)
    health.failed(met, Again("too many requests", 429))
    assert not health.is_own_fault(met), "being put off is nobody's fault"


def test_what_is_held_counts_until_it_is_settled() -> None:
    budget = Budget(ServerConfig(budget_tokens=100), {0: (5, 5)}, (0, 1))
    assert budget.covers((40, 50))
    assert not budget.covers((40, 51))
    budget.hold((40, 50))
    assert not budget.covers((0, 1))
    budget.settle((40, 50), (10, 20))
    assert budget.covers((0, 60))
    assert not budget.covers((0, 61))
    assert Budget(ServerConfig(), {}, (0, 1)).covers((10**9, 10**9))


def test_if_nothing_is_ever_answered_it_stops(serve: Any) -> None:
    with pytest.raises(ServerError, match="none of the first 20 questions was answered: 400 unknown field"):
        ask(serve(lambda _: error(400, "unknown field")), chats(50))
    server = serve(lambda _: error(404, "no such model"))
    with pytest.raises(ServerError, match="404 no such model"):
        ask(server, chats(50), concurrency=2)
    assert len(server.asked) <= 3
    with pytest.raises(ServerError, match=r"attempts.*Connect"):
        ask(server, chats(1), attempts=2, url="http://127.0.0.1:9/v1")


def test_a_budget_in_tokens_is_never_overdrawn_and_can_be_raised(serve: Any, tmp_path: Path) -> None:
    server = serve(echo)  # a question takes 15 tokens, and can take 12 + 16 + 64
    with pytest.raises(BudgetSpent, match=r"raise server\.budget"):
        ask(server, chats(40), budget_tokens=400, journal=tmp_path)
    first = len(server.asked)
    assert 400 - 92 - 15 < 15 * first <= 400
    with pytest.raises(BudgetSpent):  # a restart does not get a new budget
        ask(server, chats(40), budget_tokens=400, journal=tmp_path)
    assert len(server.asked) == first
    assert len(ask(server, chats(40), budget_tokens=4000, journal=tmp_path)) == 40
    assert len(server.asked) == 40, "nothing was paid for twice"


def test_a_budget_in_money_is_shared_by_the_workers(serve: Any, tmp_path: Path) -> None:
    server = serve(echo)
    prices = {"price_in": 1e6, "price_out": 2e6, "budget": 2000.0}  # a question costs 20, at most 156
    with pytest.raises(BudgetSpent):
        ask(server, chats(200), worker=(1, 2), journal=tmp_path, **prices)
    assert 1000 - 156 - 20 < 20 * len(server.asked) <= 1000
    config = ServerConfig(**prices)
    assert config.cost(10, 5) == 20
    with pytest.raises(ConfigError, match="price_in"):
        ServerConfig(budget=1.0)


def test_a_worker_that_starts_again_gets_no_second_share(serve: Any, tmp_path: Path) -> None:
    server = serve(echo)
    limits: dict[str, Any] = {"price_in": 1e6, "price_out": 2e6, "budget": 2000.0, "journal": tmp_path}
    for _ in range(3):
        with pytest.raises(BudgetSpent):
            ask(server, chats(200), worker=(1, 2), **limits)
        assert 20 * len(server.asked) <= 1000
    with pytest.raises(BudgetSpent):
        ask(server, chats(200), worker=(0, 2), **limits)
    assert 2000 - 2 * 156 < 20 * len(server.asked) <= 2000


def test_whatever_the_workers_were_their_shares_are_the_budget() -> None:
    draw = random.Random(3)
    for _ in range(500):
        spent: dict[int, float] = {}
        whole = 0.0
        for _ in range(draw.randint(1, 5)):  # launches; between two of them the budget may be raised
            whole += draw.choice((0, 100, 1000))
            workers = draw.randint(1, 4)
            for _ in range(12):
                worker = draw.randrange(workers)
                left = share(whole, spent, worker, workers)
                assert left is not None
                spent[worker] = spent.get(worker, 0.0) + max(0.0, left) * draw.choice((0, 0.3, 1))
                assert sum(spent.values()) <= whole + 1e-6
            for worker in range(workers):
                left = share(whole, spent, worker, workers)
                spent[worker] = spent.get(worker, 0.0) + max(0.0, left or 0.0)
            assert sum(spent.values()) == pytest.approx(whole), "nothing is left over either"


def test_what_timed_out_is_charged_at_its_most(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda one: Answer(content=echo(one).content, seconds=1.0))
    with pytest.raises(BudgetSpent):  # of 92 tokens each
        ask(server, chats(1), timeout=0.2, budget_tokens=300, journal=tmp_path)
    assert len(server.asked) == 3
    server.behaviour = echo
    with pytest.raises(BudgetSpent):
        ask(server, chats(1), budget_tokens=300, journal=tmp_path)
    reply = ask(server, chats(1), budget_tokens=400, journal=tmp_path)["row-0"]
    assert (reply.prompt_tokens, reply.tokens) == (3 * 26 + 10, 3 * 64 + 5)
    with pytest.raises(ServerError, match=r"no answer after 3 attempts.*Connect"):  # nothing was sent
        ask(server, chats(1, size=1), budget_tokens=100, attempts=3, url="http://127.0.0.1:9/v1")


def test_what_was_cut_off_is_charged_at_its_most(serve: Any) -> None:
    """The connection is gone, and the server may have generated all the same."""
    server = serve(lambda one: None if one.attempt == 0 else echo(one))
    reply = ask(server, chats(1), budget_tokens=400)["row-0"]
    assert (reply.prompt_tokens, reply.tokens) == (26 + 10, 64 + 5)
    for unreadable in (b"<html>", b"{}", b"x" * (MOST_BYTES + 1)):
        server = serve(lambda one: Answer(200, unreadable) if one.attempt == 0 else echo(one))  # noqa: B023
        assert ask(server, chats(1), budget_tokens=400)["row-0"].tokens == 64 + 5
    assert ask(serve(lambda one: None if one.attempt == 0 else echo(one)), chats(1))["row-0"].tokens == 5


def test_what_was_in_flight_at_a_kill_is_charged_at_its_most(serve: Any, tmp_path: Path) -> None:
    asked = threading.Event()

    def behaviour(one: Asked) -> Answer:
        asked.set()
        return Answer(content=echo(one).content, seconds=30.0)

    server = serve(behaviour)
    script = (
        "import sys; from pathlib import Path\n"
        "from scalequest.engines.base import Sampling\n"
        "from scalequest.engines.server import *\n"
        "config = ServerConfig(url=sys.argv[1], model='m', budget_tokens=1000)\n"
        "with ChatServer(config, Sampling(0.0, 1.0, 64), journal=Path(sys.argv[2])) as client:\n"
        "    list(client.answer(iter([(0, [Chat('row-0', user('question 0'))])])))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, server.url, str(tmp_path)])
    assert asked.wait(60)
    process.kill()
    process.wait()
    with pytest.raises(BudgetSpent):  # 90 of them are gone
        ask(serve(echo), chats(1), budget_tokens=179, journal=tmp_path)
    again = serve(echo)
    for _ in range(2):
        reply = ask(again, chats(1), budget_tokens=180, journal=tmp_path)["row-0"]
        assert (reply.prompt_tokens, reply.tokens) == (26 + 10, 64 + 5)
    assert len(again.asked) == 1


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", ["gate", "interrupt"])
def test_answers_in_flight_are_kept_whatever_ends_the_run(serve: Any, tmp_path: Path, how: str) -> None:
    def behaviour(one: Asked) -> Answer:
        if how == "interrupt" and one.number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return Answer(content=echo(one).content, seconds=0.05 if one.number == 0 else 0.4)

    server = serve(behaviour)
    config = ServerConfig(url=server.url, model="m", concurrency=4)

    def taken(client: ChatServer) -> None:
        for _ in client.answer(iter(chats(40, size=1))):
            if how == "gate":  # as `stream` does: it raises, and takes no more
                raise KeyboardInterrupt

    with ChatServer(config, GREEDY, journal=tmp_path) as client, pytest.raises(KeyboardInterrupt):
        taken(client)
    assert len(server.asked) <= (5 if how == "gate" else 9)
    server.behaviour = echo
    assert len(ask(server, chats(40, size=1), journal=tmp_path)) == 40
    assert len(server.asked) == 40, "nothing was paid for twice"


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_at_any_moment_ends_the_run_and_loses_no_answer(serve: Any, tmp_path: Path) -> None:
    """Also one that comes inside asyncio's own code, or where Python drops what is raised."""
    server, draw, main = serve(echo), random.Random(6), threading.get_ident()

    def taken(answers: Iterator[Any], shot: threading.Timer) -> None:
        shot.start()
        for _ in answers:
            pass

    for number in range(10):
        server.asked.clear()
        journal = tmp_path / str(number)
        journal.mkdir()
        config = ServerConfig(url=server.url, model="m", concurrency=8)
        with ChatServer(config, GREEDY, journal=journal) as client:
            answers = client.answer(iter(chats(5000, size=1)))
            next(answers)
            shot = threading.Timer(draw.uniform(0.0, 0.1), signal.pthread_kill, (main, signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                taken(answers, shot)
        before = len(server.asked)
        assert 8 <= before < 5000
        assert len(ask(server, chats(before, size=1), journal=journal)) == before
        assert len(server.asked) == before, "nothing was paid for twice"


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_waits_for_nothing(serve: Any, tmp_path: Path) -> None:
    def behaviour(one: Asked) -> Answer:
        if one.number == 1:
            for _ in range(2):
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGINT)
        return Answer(content=echo(one).content, seconds=0.0 if one.number == 0 else 60.0)

    server, start = serve(behaviour), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask(server, chats(2), journal=tmp_path, budget_tokens=400, timeout=120.0)
    assert time.monotonic() - start < 30
    server.behaviour = echo
    replies = ask(server, chats(2), journal=tmp_path, budget_tokens=400)
    # which of the two came first is the threads' affair
    assert sorted(reply.tokens for reply in replies.values()) == [5, 64 + 5], "what was in flight is charged"


def test_waiting_is_said_now_and_then(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(lambda one: error(429, "slow down", retry_after="1") if one.number < 4 else echo(one))
    ask(server, chats(4), concurrency=4)
    said = [line for line in caplog.messages if "retrying" in line]
    assert said == ["server: 429 slow down; retrying in 1 s"]


def test_what_brought_nothing_before_a_restart_is_billed_to_the_answer(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda one: completion(None) if one.attempt < 2 else error(503))
    with pytest.raises(ServerError):
        ask(server, chats(1), attempts=4, journal=tmp_path)
    server.behaviour = echo
    for _ in range(2):
        reply = ask(server, chats(1), journal=tmp_path)["row-0"]
        assert (reply.text, reply.prompt_tokens, reply.tokens) == ("QUESTION 0", 30, 15)


def test_who_runs_out_of_tokens_while_reasoning_is_cut_and_asked_once(serve: Any) -> None:
    reply = ask(serve(lambda _: completion(None, "length")), chats(1))["row-0"]
    assert (reply.text, reply.finish_reason, reply.fault, reply.requests) == ("", "length", None, 1)


def test_no_usage_is_no_budget(serve: Any) -> None:
    silent = {key: value for key, value in echo_content().items() if key != "usage"}
    server = serve(lambda _: Answer(content=silent))
    assert ask(server, chats(1))["row-0"].tokens == 0
    with pytest.raises(ServerError, match="a budget cannot be enforced"):
        ask(server, chats(1), budget_tokens=1000)


def echo_content() -> dict[str, Any]:
    return dict(completion("text").content)


def test_a_cut_line_of_the_journal_is_asked_again(serve: Any, tmp_path: Path) -> None:
    server = serve(echo)
    ask(server, chats(5), journal=tmp_path)
    path = tmp_path / "answers-00000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines)[:-20])
    replies = ask(server, chats(5), journal=tmp_path, worker=(1, 2))
    assert len(server.asked) == 6
    assert len(replies) == 5
    # a third run, as worker 0, finds the cut line followed by whole ones
    ask(server, chats(7), journal=tmp_path)
    ask(server, chats(7), journal=tmp_path)
    assert len(server.asked) == 8
    for line in (path.read_bytes() + (tmp_path / "answers-00001.jsonl").read_bytes()).splitlines():
        if line.startswith(b"{") and line.endswith(b"}"):
            assert json.loads(line)["asked"]


def test_another_question_or_sampling_is_another_answer(serve: Any, tmp_path: Path) -> None:
    server = serve(echo)
    ask(server, [(0, [Chat("a", user("x")), Chat("b", user("x"))])], journal=tmp_path)
    assert len(server.asked) == 2, "two rows with one text are two questions"
    ask(server, [(0, [Chat("a", user("x", "You are terse."))])], journal=tmp_path)
    ask(server, [(0, [Chat("a", user("x"), seed=1)])], journal=tmp_path)
    ask(server, [(0, [Chat("a", user("x"))])], journal=tmp_path, extra={"top_k": 1})
    assert len(server.asked) == 5
    assert server.asked[2].body["messages"][0] == {"role": "system", "content": "You are terse."}
    assert server.asked[3].body["seed"] == 1
    assert server.asked[4].body["top_k"] == 1


def test_the_key_is_sent_and_never_shown(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "sk-test-4711-abcdef"
    monkeypatch.setenv("MY_KEY", secret)
    server = serve(echo)
    ask(server, chats(2), journal=tmp_path, key_variable="MY_KEY")
    assert server.asked[0].headers["Authorization"] == f"Bearer {secret}"
    # a server that repeats the key in what it says
    server = serve(lambda _: error(401, f"Incorrect key provided: {secret}"))
    with pytest.raises(ServerError, match=r"401 Incorrect key provided: \*\*\*.*variable MY_KEY") as caught:
        ask(server, chats(5), journal=tmp_path, key_variable="MY_KEY")
    server = serve(lambda one: error(400, secret) if one.number else echo(one))
    ask(server, chats(3), journal=tmp_path, key_variable="MY_KEY", concurrency=1)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode()
    settings = str(to_dict(ServerConfig(url=server.url, model="m", key_variable="MY_KEY")))
    for shown in (str(caught.value), written, caplog.text, settings):
        assert secret not in shown
    monkeypatch.delenv("MY_KEY")
    ask(serve(echo), chats(1), key_variable="MY_KEY")


def test_a_key_that_no_header_holds_is_not_shown(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(echo)
    monkeypatch.setenv("MY_KEY", "sk-4711\n")  # as a file ends
    ask(server, chats(1), key_variable="MY_KEY")
    assert server.asked[0].headers["Authorization"] == "Bearer sk-4711"
    for broken in ("sk-\n4711", "sk-“4711”"):
        monkeypatch.setenv("MY_KEY", broken)
        with pytest.raises(ConfigError, match="MY_KEY: contains") as caught:
            ask(server, chats(1), key_variable="MY_KEY")
        assert "4711" not in str(caught.value)
    with pytest.raises(ConfigError, match="the name of an environment variable") as caught:
        ServerConfig(key_variable="sk-4711")
    assert "4711" not in str(caught.value)


def test_an_address_that_cannot_work_says_why() -> None:
    for url, why in {
        "localhost:8000": "http://host",
        "http://me:secret@host/v1": "must not contain a user",
        "http://host/v1?key=secret": "query",
    }.items():
        with pytest.raises(ConfigError, match=why) as caught:
            ServerConfig(url=url)
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="url and model"):
        ChatServer(ServerConfig(url="http://host/v1"), GREEDY)
