"""Which errors of a model call may pass by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

RETRYABLE_STATUSES: Final = frozenset({408, 409, 425, 429})
"""Besides every 5xx: request time-out, conflict, too early, too many requests."""

_HTTP_LIBRARIES: Final = frozenset(
    {
        "aiohttp",
        "anthropic",
        "google",
        "httpcore",
        "httpcore2",
        "httpx",
        "httpx2",
        "ollama",
        "openai",
        "requests",
        "urllib3",
    }
)
_CONNECTION_ERRORS: Final = frozenset(
    {
        "APIConnectionError",
        "ClientConnectionError",
        "ConnectError",
        "ConnectionError",
        "NetworkError",
        "ReadTimeoutError",
        "RemoteProtocolError",
        "ServiceUnavailable",
        "Timeout",
        "TimeoutException",
    }
)
"""Names of the classes, looked up in an error's bases, so that no library need be imported to know its errors."""


def is_retryable(error: BaseException) -> bool:
    """Tell whether asking again may help: a rate limit, a time-out, a broken connection, an overloaded server.

    An HTTP status decides where the error, or what it was raised from, has one.
    """
    for one in _chain(error):
        told = getattr(one, "retryable", None)
        if isinstance(told, bool):
            return told
        status = _status(one)
        if status is not None:
            return _is_retryable_status(status) and getattr(one, "code", None) != "insufficient_quota"
    return any(_is_connection_error(one) for one in _chain(error))


def _is_retryable_status(status: int) -> bool:
    return status in RETRYABLE_STATUSES or 500 <= status <= 599


def _chain(error: BaseException) -> Iterator[BaseException]:
    # Integrations wrap their library's errors, once or twice; a bound keeps a cycle from hanging us.
    at: BaseException | None = error
    for _ in range(5):
        if at is None:
            return
        yield at
        at = at.__cause__


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    candidates: tuple[Any, ...] = (
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        getattr(error, "code", None),
        getattr(error, "status", None),
    )
    numbers = (int(value) for value in candidates if isinstance(value, int) and not isinstance(value, bool))
    return next((number for number in numbers if 100 <= number <= 599), None)


def _is_connection_error(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
        return True  # a connection kept open from a loop that is gone; the failed try threw it away
    return any(
        base.__name__ in _CONNECTION_ERRORS and base.__module__.partition(".")[0] in _HTTP_LIBRARIES
        for base in type(error).__mro__
    )
