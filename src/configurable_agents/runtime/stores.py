"""The open stores of this process: opening one costs more than a run, so a path or URL is opened once and kept.

This is the one place where the package holds state between runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configurable_agents.config.schema import StorageConfig
from configurable_agents.errors import StorageError
from configurable_agents.forks import begin_anew_in_children
from configurable_agents.logs import logger_of
from configurable_agents.observability.exporter import StoreSpanExporter
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.factory import locate, open_writer, store_target
from configurable_agents.storage.targets import shown
from configurable_agents.storage.writer import Writer

logger = logger_of(__name__)

_FILE_SECONDS = 5.0
_SERVER_SECONDS = 1.0
"""How long the first run waits until SQLAlchemy is loaded and the schema is made; no event loop is held up. A file that
cannot be opened says so at once, on however slow a machine; a server that is away may never say anything."""
_EXPORTER = "_configurable_agents_exporter"

StoreChoice = str | Path | StorageBackend | bool | None
"""A path, a database URL, an open store, False for none; None (or True) for what environment and file say."""


@dataclass(frozen=True, slots=True)
class OpenStore:
    """A store that runs write into; it need not be within reach."""

    exporter: StoreSpanExporter
    location: str
    """Where it is, as people may see it."""
    patience_seconds: float = 0.0

    @property
    def open_seconds(self) -> float:
        """How much longer than for a commit a run waits: as long as the store has not been opened yet."""
        return 0.0 if self.exporter.is_open else self.patience_seconds


class Stores:
    """Opens stores, each once a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._required = threading.Lock()
        """Held while a store is opened that a run must have."""
        self._refused: dict[tuple[str, bool], tuple[float, StorageError]] = {}
        """When that was last tried in vain, and why it was."""
        self._by_place: dict[tuple[str, bool], OpenStore] = {}

    def of(self, backend: StorageBackend) -> OpenStore:
        """Give the exporter of a store that the caller has opened, always the same one."""
        with self._lock:
            # Kept by the backend itself: a mapping of ours, also a weak one, would keep both alive for ever.
            exporter: StoreSpanExporter | None = vars(backend).get(_EXPORTER)
            if exporter is None:
                exporter = vars(backend)[_EXPORTER] = StoreSpanExporter(backend)
                exporter.named = _named(backend.location)
        return OpenStore(exporter, backend.location)

    def at(self, place: Path | str, *, required: bool, power: bool) -> OpenStore:
        """Give the way into the store at a path or URL; one that is out of reach is tried again by its writer.

        Raises:
            StorageError: It is required, and cannot be opened or written.
        """
        key = (str(_whole(place)), power)
        if not required:
            known = self._by_place.get(key)
            if known is not None:
                return known
            with self._lock:
                return self._by_place.get(key) or self._open(key, place, open_writer(place, power=power))
        # It is opened here and now, for which only those wait who cannot begin without it either.
        came = time.monotonic()
        with self._required:
            refused_at, reason = self._refused.get(key, (0.0, None))
            if reason is not None and came < refused_at:
                raise StorageError(str(reason)) from reason  # while this one waited: one after the other takes for ever
            known = self._by_place.get(key)
            # One that took the last group is not asked again: each run would wait for all who write just then.
            if known is not None and known.exporter.is_open and not known.exporter.is_away:
                return known
            try:
                writer = open_writer(place, required=True, power=power)
            except StorageError as error:
                self._refused[key] = time.monotonic(), error
                raise
            with self._lock:
                return self._open(key, place, writer)

    def _open(self, key: tuple[str, bool], place: Path | str, writer: Writer) -> OpenStore:
        exporter = StoreSpanExporter(writer=writer)
        exporter.named = _named(place)
        opened = self._by_place[key] = OpenStore(exporter, shown(place), _patience(place))
        return opened


_STORES = Stores()
# A lock that another thread held at the fork would stay locked in the child for ever.
begin_anew_in_children(lambda: _STORES.__init__())  # type: ignore[misc]  # the same object, as new


def open_store(choice: StoreChoice, config: StorageConfig | None, environ: Mapping[str, str]) -> OpenStore | None:
    """Open the store of a run: None if it shall have none, or if it cannot be opened, which is said in one warning.

    Raises:
        StorageError: It cannot be opened or written and the file says `required: true`.
    """
    if choice is False:
        return None
    explicit = choice if isinstance(choice, str | Path) else None
    if explicit is None:
        if isinstance(choice, StorageBackend):
            return _STORES.of(choice)
        if config is not None and not config.enabled:
            return None
    required = config is not None and config.required
    try:
        place = locate(store_target(explicit, environ, config))
    except StorageError as error:
        if required:
            raise
        logger.warning("this run is not kept: %s", error)
        return None
    return _STORES.at(place, required=required, power=config is not None and config.durability == "power")


def _named(place: Path | str) -> str | None:
    """Say what `--store` takes for a store; None where a command finds it without."""
    try:
        is_found = _whole(locate(store_target(None, os.environ, None))) == _whole(locate(place))
    except StorageError:  # the variable names none, or the store is of a kind of the caller's own
        is_found = False
    return None if is_found else shown(place)


def _whole(place: Path | str) -> Path | str:
    return place.absolute() if isinstance(place, Path) else place


def _patience(place: Path | str) -> float:
    return _FILE_SECONDS if isinstance(place, Path) else _SERVER_SECONDS
