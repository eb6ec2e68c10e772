"""Brings spans to one destination: a queue bounded in bytes, and a thread that no run ever waits for.

What is not delivered is counted and told of; the store has it, and can ship it later.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from configurable_agents.logs import logger_of
from configurable_agents.observability.content import MAX_REQUEST_BYTES, ShippedSpan
from configurable_agents.observability.destinations import OTLP, Destination, load_exporter, open_exporter
from configurable_agents.observability.exporter_log import exporter_log, reason_of

logger = logger_of(__name__)

QUEUE_BYTES: Final = 8 * 1024 * 1024
"""What waits beyond is not shipped; the store has it."""
SPAN_BYTES: Final = 512
"""What a waiting span takes beside its texts."""
ENVELOPE_BYTES: Final = 20_000
"""Left free in a request for the resource, the scope and the framing."""
BATCH_SPANS: Final = 512
INTERVAL_SECONDS: Final = 1.0
"""How long a span waits for others."""
RUN_END_SECONDS: Final = 0.05
"""How long the last span of a run does: somebody may be looking for the run now."""
LONGEST_PAUSE_SECONDS: Final = 30.0
"""Between tries, after failures in a row: whoever throttles us is not asked again at once."""
TROUBLE_SECONDS: Final = 5.0
"""How long a destination may fail before it is told of: what restarts is soon back."""
IDLE_SECONDS: Final = 30.0
"""The thread ends, and its connection closes, when there has been nothing to do for so long."""
GENTLE_SPANS: Final = 8
GENTLE_SECONDS: Final = 0.0001
"""While spans are encoded, runs get the interpreter after so many of them. Without that a node that needs it waits for
the interpreter's switch interval, which is 5 ms."""


@dataclass(slots=True)
class Delivery:
    """What becomes of one run's spans on their way to one destination."""

    delivered: Callable[[], None] | None
    """Called, on the shipper's thread, when all have been delivered."""
    store: str | None = None
    """What `--store` takes for the store that has them; None where a command finds it without."""
    is_whole: bool = True
    """Whether none has been lost so far."""


class _Entry(NamedTuple):
    span: ShippedSpan
    delivery: Delivery
    is_last: bool
    """Whether it is the run's own span, which ends after all others."""


class _Batch(list[ReadableSpan]):
    """Spans that give way, as they are encoded, to whoever else needs the interpreter."""

    hurry = False

    def __iter__(self) -> Iterator[ReadableSpan]:
        for number, span in enumerate(super().__iter__(), 1):
            yield span
            if number % GENTLE_SPANS == 0 and not self.hurry:
                time.sleep(GENTLE_SECONDS)


class Shipper:
    """The way of all spans of this process to one destination."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.begin_anew()

    def begin_anew(self) -> None:
        """Begin with nothing; a forked child does, because queue, connection and locks are its parent's."""
        self._changed = threading.Condition()
        self._queue: deque[_Entry] = deque()
        self._bytes = 0
        self._send_at = 0.0
        self._thread: threading.Thread | None = None
        self._is_loaded = False
        self._is_broken = False
        """Whether there is no such exporter; nothing will ever be shipped then."""
        self._watchers: list[Callable[[], None]] = []
        self._is_ending = False
        self._gave_up = False
        """Whether the last try, at the process's end, has failed."""
        self._batch_spans = BATCH_SPANS
        self._failures = 0
        """In a row."""
        self._trouble_since: float | None = None
        self._reason = ""
        self._is_retrying = False
        """Whether the exporter has failed and waits before it tries again by itself."""
        self._warned = False
        self._lost = 0
        """Spans that were not delivered and never will be from here, those told of left out."""
        self._lost_unkept = False
        self._lost_of: set[str | None] = set()
        """The stores that have them, as their deliveries name them."""
        self._has_unkept = False
        """Whether spans came that no store of ours has."""

    # --- on the run's thread -------------------------------------------------------------------------------------------

    def when_loaded(self, call: Callable[[], None]) -> bool:
        """Have the exporter's libraries loaded, and be called when they are.

        Returns:
            True if there is nothing to wait for; `call` is then not called.
        """
        with self._changed:
            if self._is_loaded or self._is_ending:
                return True
            self._keep_a_thread()
            if self._thread is None:
                return True
            self._watchers.append(call)
        return False

    def offer(self, span: ShippedSpan, delivery: Delivery, *, is_last: bool) -> None:
        """Take a span; never waits. One that finds no room is counted as lost."""
        size = span.size + SPAN_BYTES
        with self._changed:
            self._has_unkept |= not span.kept
            has_room = self._bytes + size <= QUEUE_BYTES and not (self._is_ending or self._is_broken)
            if has_room:
                self._queue.append(_Entry(span, delivery, is_last))
                self._bytes += size
                self._plan(is_last=is_last)
                self._keep_a_thread()
            else:
                self._lose(span, delivery)
        if not (has_room or self._is_broken):
            self._tell_of_trouble("it takes spans more slowly than they are made" if not self._failures else "")

    def _plan(self, *, is_last: bool) -> None:
        now, waiting = time.monotonic(), len(self._queue)
        send_at = now + (RUN_END_SECONDS if is_last else INTERVAL_SECONDS)
        if waiting == 1 or send_at < self._send_at:
            self._send_at = send_at
            self._changed.notify_all()
        elif waiting == BATCH_SPANS:
            self._changed.notify_all()

    def _lose(self, span: ShippedSpan, delivery: Delivery) -> None:
        delivery.is_whole = False
        self._lost += 1
        self._lost_unkept |= not span.kept
        self._lost_of.add(delivery.store)

    def _keep_a_thread(self) -> None:
        if self._thread is None and not (self._is_ending or self._is_broken):
            thread = threading.Thread(target=self._work, name="configurable-agents-otlp", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread can be had now, or the interpreter is ending
                thread.start()
                self._thread = thread

    # --- at the end of the process -------------------------------------------------------------------------------------

    def begin_to_end(self) -> None:
        """Have what waits sent now."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def end(self, deadline: float) -> None:
        """Wait until nothing waits any more, or sending fails, or until `deadline`; then say what was not delivered."""
        with self._changed:
            self._is_ending = True
            while self._queue and self._thread is not None and not self._is_retrying:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            for span, delivery, _ in self._queue:
                self._lose(span, delivery)
            reason = self._reason or ("it did not answer in time" if self._is_loaded else "its exporter was loading")
            self._queue.clear()
            self._bytes = 0
        self._tell_what_is_lost(reason)

    # --- on the shipper's thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        # Whoever instruments HTTP or gRPC in this program shall not make spans of how spans are shipped.
        otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: SLF001
        try:
            load_exporter(self.destination)
            with exporter_log(self._tell_of_settings):
                exporter = open_exporter(self.destination)
        except Exception as error:  # noqa: BLE001 - a foreign package may raise anything
            self._give_up(error)
            return
        self._loaded()
        try:
            while batch := self._next_batch():
                self._send(exporter, batch)
        except Exception:  # a fault of ours: the next span begins a thread anew
            logger.exception("could not ship spans to %s", self.destination.name)
            with self._changed:
                self._thread = None
                self._changed.notify_all()
        with exporter_log(self._note), contextlib.suppress(Exception):  # nobody is left to be told
            exporter.shutdown()

    def _loaded(self) -> None:
        with self._changed:
            self._is_loaded = True
            watchers, self._watchers = self._watchers, []
        for call in watchers:
            with contextlib.suppress(RuntimeError):  # its event loop has closed meanwhile
                call()

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._is_broken, self._thread = True, None
            for span, delivery, _ in self._queue:
                self._lose(span, delivery)
            self._queue.clear()
            self._bytes = 0
            self._reason = self._masked(reason_of(f"{type(error).__name__}: {error}"))
            self._changed.notify_all()
        self._loaded()
        self._tell_of_trouble(self._reason)

    def _next_batch(self) -> list[_Entry]:
        """Wait for spans, and give those to send now; none when the thread is not needed any more."""
        with self._changed:
            idle_at = time.monotonic() + IDLE_SECONDS
            pause = min(2.0 ** (self._failures - 1), LONGEST_PAUSE_SECONDS) if self._failures else 0.0
            not_before = time.monotonic() + pause
            while not self._is_ending:
                now = time.monotonic()
                due = idle_at if not self._queue else max(not_before, 0.0 if self._is_full() else self._send_at)
                if due <= now:
                    break
                self._changed.wait(due - now)
            if not self._queue or self._gave_up:
                self._thread = None
                return []
            return self._head()

    def _is_full(self) -> bool:
        return len(self._queue) >= BATCH_SPANS or self._bytes >= MAX_REQUEST_BYTES

    def _head(self) -> list[_Entry]:
        taken: list[_Entry] = []
        left = MAX_REQUEST_BYTES - ENVELOPE_BYTES
        for entry in self._queue:
            left -= entry.span.size
            if taken and (left < 0 or len(taken) == self._batch_spans):
                break
            taken.append(entry)
        return taken

    def _send(self, exporter: SpanExporter, entries: Sequence[_Entry]) -> None:
        batch = _Batch(entry.span for entry in entries)
        batch.hurry = self._is_ending
        self._is_retrying = False
        try:
            with exporter_log(self._note):
                delivered = exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything, and the thread must live
            delivered = False
            self._note(reason_of(f"{type(error).__name__}: {error}"))
        if delivered:
            self._delivered(entries)
        else:
            self._failed(entries)

    def _delivered(self, entries: Sequence[_Entry]) -> None:
        whole = [entry.delivery for entry in entries if entry.is_last and entry.delivery.is_whole]
        for delivery in whole:  # before they count as gone: at the process's end nobody waits for less
            if delivery.delivered is not None:
                delivery.delivered()
        with self._changed:
            self._take_out(entries)
            self._failures, self._trouble_since, self._reason, self._is_retrying = 0, None, "", False
            self._batch_spans = min(BATCH_SPANS, self._batch_spans * 2)
            was_told, self._warned = self._warned, False
            self._changed.notify_all()
        if was_told:
            logger.info("%s takes spans again", self.destination.name)

    def _failed(self, entries: Sequence[_Entry]) -> None:
        with self._changed:
            self._failures += 1
            if len(entries) == 1:
                # It was sent alone, and still it was not taken: it may be the one that is never taken.
                self._take_out(entries)
                self._lose(entries[0].span, entries[0].delivery)
            self._batch_spans = max(1, len(entries) // 2)
            self._is_retrying = True
            self._gave_up = self._is_ending
            self._changed.notify_all()
        self._tell_of_trouble(self._reason or "it did not take them")

    def _take_out(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            if self._queue:  # at the process's end it has been emptied
                self._queue.popleft()
                self._bytes -= entry.span.size + SPAN_BYTES

    # --- telling -------------------------------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        """Take what the exporter would log: a try that failed. It goes on trying, which may take a minute."""
        now = time.monotonic()
        text = self._masked(text)
        with self._changed:
            self._reason, self._is_retrying = text, True
            self._trouble_since = self._trouble_since or now
            is_lasting = now - self._trouble_since >= TROUBLE_SECONDS
            self._changed.notify_all()
        if is_lasting:
            self._tell_of_trouble(text)

    def _tell_of_settings(self, text: str) -> None:
        """Pass on what the exporter says of its settings as it is opened."""
        logger.warning("%s: %s", self.destination.name, self._masked(text))

    def _masked(self, text: str) -> str:
        """Hide what stands in the endpoint's URL or its headers: errors quote them."""
        for secret in self.destination.secrets:
            text = text.replace(secret, "***")
        return text

    def _tell_of_trouble(self, reason: str) -> None:
        """Warn, once until the destination takes spans again; at the end of the process the count is warning enough."""
        with self._changed:
            if self._warned or self._is_ending:
                return
            self._warned = True
            stores = self._lost_of.union(entry.delivery.store for entry in self._queue)
        logger.warning(
            "spans do not reach %s: %s; runs go on, and %s",
            self.destination.name,
            reason,
            self._remedy(stores, kept=not self._has_unkept),
        )

    def _tell_what_is_lost(self, reason: str) -> None:
        with self._changed:
            lost, self._lost = self._lost, 0
            stores, self._lost_of = self._lost_of, set()
        if lost:
            text = "%d spans were not delivered to %s: %s; %s"
            remedy = self._remedy(stores, kept=not self._lost_unkept)
            logger.warning(text, lost, self.destination.name, reason, remedy)

    def _remedy(self, stores: Set[str | None], *, kept: bool) -> str:
        if not kept:
            return "there is no store that has them"
        if self.destination.exporter != OTLP:
            return "the store has them"
        first, *others = sorted(stores, key=lambda store: store or "") or [None]  # none has come yet
        more = f"; other stores that have some: {len(others)}" if others else ""
        return f"the store has them: `{export_command(self.destination, first)}` ships them later{more}"


def export_command(destination: Destination, store: str | None) -> str:
    """Give the command that ships from the store what did not reach a destination."""
    parts = urlsplit(destination.endpoint or "")
    words = ["configurable-agents", "runs", "export", "--pending"]
    # Any other URL over HTTP is one that only the environment can name, in which the command looks as well.
    if destination.protocol == "grpc" or parts.path.rstrip("/").endswith("/v1/traces"):
        words += ["--otlp", destination.name]
    if destination.protocol == "grpc" and parts.port != 4317:
        words += ["--protocol", "grpc"]
    return shlex.join(words if store is None else [*words, "--store", store])
