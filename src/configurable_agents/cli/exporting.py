"""The work of `runs export`: runs are read, shipped or written, marked, and told of."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

import orjson
from rich.status import Status as Spinner

from configurable_agents.cli import figures
from configurable_agents.cli.as_json import run_object
from configurable_agents.cli.listing import listing
from configurable_agents.cli.screen import Screen
from configurable_agents.cli.selecting import Selection, read_run, select
from configurable_agents.errors import DeliveryError, InputError, StorageError
from configurable_agents.observability.archive import lines, request, shipped, whole
from configurable_agents.observability.content import ShipRules, ship_rules
from configurable_agents.observability.destinations import Destination
from configurable_agents.observability.outbox import send
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.factory import create_storage_backend, open_for_reading
from configurable_agents.storage.records import DeliveryRecord, RunId

_LISTED: Final = 1000
"""Runs that a dry run lists at once, so that the columns fit and the memory is bounded."""
_MARK_SECONDS: Final = 10.0
"""How long a mark waits for another writer: without it the run would be shipped again."""


@dataclass(frozen=True)
class Export:
    """What the command line asked for."""

    screen: Screen
    store: str | None
    selection: Selection
    pending: bool
    content: bool | None
    as_json: bool

    @property
    def rules(self) -> ShipRules:
        """What may leave."""
        rules = ship_rules(os.environ)
        return rules if self.content is None else replace(rules, capture_content=self.content)

    def towards(self, place: Destination) -> Selection:
        """Give the selection of what goes to a destination."""
        return replace(self.selection, undelivered_to=place.name) if self.pending else self.selection


@dataclass
class _Count:
    runs: int = 0
    spans: int = 0

    def __str__(self) -> str:
        return f"{figures.count(self.runs, 'run')} ({figures.count(self.spans, 'span')})"


# --- over OTLP -----------------------------------------------------------------------------------------------------------


def ship(asked: Export, places: Sequence[Destination]) -> int:
    """Ship the runs to each destination; gives the exit code, 1 if one of them did not take all."""
    with contextlib.closing(open_for_reading(asked.store)) as backend:
        return max(_ship_to(place, asked, backend) for place in places)


def _ship_to(place: Destination, asked: Export, backend: StorageBackend) -> int:
    count, error = _Count(), None
    runs = (read_run(backend, run) for run in select(backend, asked.towards(place)))
    if place.is_exposed:
        asked.screen.complain(f"spans go to {place.name} without encryption; https:// has it", kind="warning")
    with _progress(asked.screen, f"to {place.name}", count), _Marks(asked, place.name) as marks:
        try:
            for delivered in send(place, runs, asked.rules):
                marks.add(delivered.runs)
                count.runs += len(delivered.runs)
                count.spans += delivered.spans
        except DeliveryError as failure:
            error = str(failure)
    _tell_shipped(asked, place, count, error)
    return 0 if error is None else 1


def _tell_shipped(asked: Export, place: Destination, count: _Count, error: str | None) -> None:
    if asked.as_json:
        told = {"destination": place.name, "runs": count.runs, "spans": count.spans, "error": error}
        asked.screen.write_json(told)
    if error is None:
        asked.screen.tell(f"delivered {count} to {place.name}")
    else:
        before = (
            f"{count} were delivered before; --pending sends what is missing" if count.runs else "No run was delivered."
        )
        asked.screen.complain(f"{error}\n{before}")


class _Marks:
    """Notes in the store what was delivered; where that cannot be written, it is delivered all the same."""

    def __init__(self, asked: Export, destination: str) -> None:
        self._asked = asked
        self._destination = destination
        self._stack = contextlib.ExitStack()
        self._backend: StorageBackend | None = None
        self._is_broken = False

    def __enter__(self) -> _Marks:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, runs: Sequence[RunId]) -> None:
        if not runs or self._is_broken:
            return
        now = time.time_ns()
        marks = [DeliveryRecord(run_id=run, destination=self._destination, delivered_at_unix_nano=now) for run in runs]
        try:
            self._opened().runs.mark_delivered(marks)
        except StorageError as error:
            self._is_broken = True
            text = f"what is delivered cannot be noted, so --pending will send it again: {error}"
            self._asked.screen.complain(text, kind="warning")

    def _opened(self) -> StorageBackend:
        if self._backend is None:
            self._backend = create_storage_backend(self._asked.store, busy_timeout_seconds=_MARK_SECONDS)
            self._stack.callback(self._backend.close)
        return self._backend


# --- into a file ---------------------------------------------------------------------------------------------------------


def write(asked: Export, file: Path | None) -> int:
    """Write the runs into a file, or to stdout; gives the exit code."""
    if file is None and asked.as_json:
        raise InputError(["--json tells of a file: give --output FILE"])
    count = _Count()
    with contextlib.closing(open_for_reading(asked.store)) as backend:
        if file is None:
            for line in _lines(asked, backend, count):
                _write_line(asked.screen, line)
        else:
            with _new_file(file) as out, _progress(asked.screen, f"into {file}", count):
                for line in _lines(asked, backend, count):
                    out.write(line)
    _tell_written(asked, file, count)
    return 0


def _lines(asked: Export, backend: StorageBackend, count: _Count) -> Iterator[bytes]:
    as_it_is = asked.content is not False
    for run in select(backend, asked.selection):
        stored = read_run(backend, run, with_text=as_it_is)
        spans = whole(stored) if as_it_is else shipped(stored, asked.rules)
        # One run is one document, which viewers take; of many each line is small enough for a collector.
        yield from [request(spans)] if len(asked.selection.runs) == 1 else lines(spans)
        count.runs += 1
        count.spans += len(spans)


def _write_line(screen: Screen, line: bytes) -> None:
    if line.isascii():
        screen.write(line.decode().removesuffix("\n"))
    else:  # what a terminal would obey is spelt out
        screen.write_json(orjson.loads(line))


@contextlib.contextmanager
def _new_file(file: Path) -> Iterator[IO[bytes]]:
    """Write a file that only its owner can read; it has its name when it is whole."""
    if file.exists() or file.is_symlink():
        raise InputError([f"{str(file)!r} is there already; choose another name"])
    part = file.with_name(f"{file.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError([f"{str(part)!r} cannot be written: {error.strerror}"]) from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
        part.rename(file)
    except OSError as error:
        raise InputError([f"{str(file)!r} cannot be written: {error.strerror}"]) from error
    finally:
        part.unlink(missing_ok=True)


def _tell_written(asked: Export, file: Path | None, count: _Count) -> None:
    if asked.as_json and file is not None:
        size = file.stat().st_size
        asked.screen.write_json({"file": str(file), "runs": count.runs, "spans": count.spans, "size_bytes": size})
    asked.screen.tell(f"wrote {count}" + ("" if file is None else f" into {file}"))
    if count.runs and asked.content is not False:
        what = "it holds inputs, outputs, messages and workflow files; --no-content leaves them out"
        asked.screen.tell(what, style="dim")


# --- both ----------------------------------------------------------------------------------------------------------------


def list_selected(asked: Export, places: Sequence[Destination]) -> int:
    """List what would be exported."""
    with contextlib.closing(open_for_reading(asked.store)) as backend:
        for place in places or (None,):
            _list_for(asked, backend, place)
    return 0


def _list_for(asked: Export, backend: StorageBackend, place: Destination | None) -> None:
    screen, found = asked.screen, 0
    runs = select(backend, asked.selection if place is None else asked.towards(place))
    while page := [run for run, _ in zip(runs, range(_LISTED), strict=False)]:
        found += len(page)
        if asked.as_json:
            for run in page:
                screen.write_json({**run_object(run), "destination": None if place is None else place.name})
        else:
            for line in listing(page, now_unix_nano=time.time_ns(), width=screen.out.width, signs=screen.signs):
                screen.show(line)
    where = "be written" if place is None else f"go to {place.name}"
    screen.tell(f"{figures.count(found, 'run')} would {where}")


@contextlib.contextmanager
def _progress(screen: Screen, where: str, count: _Count) -> Iterator[None]:
    """Show on a terminal how far it is."""
    if not screen.err.is_terminal:
        yield
        return

    class Line:
        def __rich__(self) -> str:
            return f"{count} {where}"

    with Spinner(Line(), console=screen.err):
        yield
