"""Says where spans are shipped to: what option, environment and file name, in this order. Opens exporters, late."""

from __future__ import annotations

import functools
import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from configurable_agents.errors import ConfigError, InputError, Problem
from configurable_agents.logs import logger_of
from configurable_agents.observability.loading import LOADING
from configurable_agents.observability.receipts import checking_session, signs_on

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from configurable_agents.config.schema import OtlpConfig

logger = logger_of(__name__)

Protocol = Literal["grpc", "http/protobuf"]
Headers = tuple[tuple[str, str], ...]

OTLP: Final = "otlp"
NONE: Final = "none"
GROUP: Final = "opentelemetry_traces_exporter"
"""Entry points under which packages offer exporters."""

_OURS: Final = "configurable_agents"
_PATH: Final = "/v1/traces"
_DEFAULT_ENDPOINT: Final = "http://localhost:4317"
_OTLP_NAMES: Final[Mapping[str, Protocol | None]] = {
    OTLP: None,
    "otlp_proto_grpc": "grpc",
    "otlp_proto_http": "http/protobuf",
}
_PROTOCOL_OF_PORT: Final[Mapping[int | None, Protocol]] = {4317: "grpc", 4318: "http/protobuf"}
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_LEAST_SECRET: Final = 4
"""Characters: hiding a shorter value (`?v=1`) would hide parts of every text, and no secret."""
_HEADER_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")


@dataclass(frozen=True, slots=True, repr=False)
class Destination:
    """One place that spans are shipped to."""

    exporter: str = OTLP
    """`otlp`, or the name of an entry point."""
    endpoint: str | None = None
    """For `otlp` a whole URL."""
    protocol: Protocol | None = None
    headers: Headers = ()
    """Secrets; names in lower case."""

    def __repr__(self) -> str:
        return f"Destination({self.name!r})"

    @property
    def name(self) -> str:
        """The place as people may see it, and as the store notes what was delivered: without credentials and query.

        It is what `--otlp` takes. A path may tell tenants of one host apart; gRPC has none.
        """
        if self.endpoint is None:
            return self.exporter
        parts = urlsplit(self.endpoint)
        if parts.scheme == "unix":
            return self.endpoint
        path = "" if self.protocol == "grpc" else parts.path.rstrip("/").removesuffix(_PATH)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}{path}"

    @property
    def secrets(self) -> frozenset[str]:
        """What must not be seen: the headers' values, also without a scheme as `Bearer`, the URL's password and query."""
        values = {value for _, text in self.headers for value in (text, text.rpartition(" ")[2])}
        parts = urlsplit(self.endpoint or "")
        values |= {parts.password or "", unquote(parts.password or ""), *(value for _, value in parse_qsl(parts.query))}
        return frozenset(value for value in values if len(value) >= _LEAST_SECRET)

    @property
    def is_exposed(self) -> bool:
        """Whether what is shipped crosses a network unencrypted."""
        parts = urlsplit(self.endpoint or "")
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def destinations(
    otlp: str | None,
    config: OtlpConfig | None,
    environ: Mapping[str, str],
    *,
    protocol: Protocol | None = None,
) -> tuple[Destination, ...]:
    """Say where the spans of a run are shipped: where the option says, else the environment, else the file, else nowhere.

    Args:
        otlp: An OTLP endpoint as `http://127.0.0.1:4318`; `none` ships nothing.
        config: The file's `config.observability.otlp`, its variables filled in.
        protocol: For `otlp`; without one the port decides.

    Raises:
        InputError: `otlp` is no endpoint.
        ConfigError: The file's endpoint is none, or its `headers_env` names a variable that is not set or holds no headers.
    """
    if otlp is not None:
        return () if otlp.strip().lower() == NONE else (_of_option(otlp, protocol, environ),)
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if named or environ.get(_TRACES_ENDPOINT) or environ.get(_ENDPOINT):
        return tuple(dict.fromkeys(_of_environment(named or OTLP, environ)))
    return () if config is None else (_of_file(config, environ),)


def _of_option(otlp: str, protocol: Protocol | None, environ: Mapping[str, str]) -> Destination:
    parts = _parts(otlp)
    if parts is None:
        shown = otlp.strip().rpartition("@")[2][:100]
        raise InputError([f"otlp: {shown!r} is no endpoint; give a URL as http://127.0.0.1:4318"])
    protocol = protocol or _PROTOCOL_OF_PORT.get(parts.port) or _protocol_variable(environ) or "http/protobuf"
    return Destination(OTLP, _url(parts, protocol), protocol, _environment_headers(environ))


def _of_file(config: OtlpConfig, environ: Mapping[str, str]) -> Destination:
    place = "config.observability.otlp"
    parts = _parts(config.endpoint)
    if parts is None:
        raise ConfigError([Problem("this is no OTLP endpoint", f"{place}.endpoint", "Give a URL as http://host:4318.")])
    protocol = config.protocol or _PROTOCOL_OF_PORT.get(parts.port) or "http/protobuf"
    headers: Headers = ()
    if config.headers_env is not None:
        if config.headers_env not in environ:
            text = f"the environment variable {config.headers_env!r} is not set"
            remedy = f"Set it before the run: export {config.headers_env}=key=value,…"
            raise ConfigError([Problem(text, f"{place}.headers_env", remedy)])
        found = _headers(environ[config.headers_env])
        if found is None:
            text = f"what the environment variable {config.headers_env!r} holds is no list of headers"
            raise ConfigError([Problem(text, f"{place}.headers_env", "Write key=value,key2=value2.")])
        headers = found
    return Destination(OTLP, _url(parts, protocol), protocol, headers)


def _of_environment(names: str, environ: Mapping[str, str]) -> Iterator[Destination]:
    for name in filter(None, (name.strip() for name in names.split(","))):
        if name in _OTLP_NAMES:
            yield from _otlp_of_environment(_OTLP_NAMES[name], environ)
        elif name not in (NONE, _OURS):  # our store keeps everything as it is
            yield Destination(name)


def _otlp_of_environment(protocol: Protocol | None, environ: Mapping[str, str]) -> Iterator[Destination]:
    whole = environ.get(_TRACES_ENDPOINT)
    text = whole or environ.get(_ENDPOINT) or _DEFAULT_ENDPOINT
    plain = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_INSECURE") or environ.get("OTEL_EXPORTER_OTLP_INSECURE") or ""
    ).lower()
    parts = _parts(text, scheme="http" if plain == "true" else "https")
    if parts is None:  # a run does not fail of what is exported in some shell
        _warn_of_no_endpoint(_TRACES_ENDPOINT if whole else _ENDPOINT, text)
        return
    protocol = protocol or _protocol_variable(environ) or _PROTOCOL_OF_PORT.get(parts.port) or "grpc"
    # The variable for traces holds the whole URL of an HTTP endpoint, the general one its base.
    endpoint = parts.geturl() if whole else _url(parts, protocol)
    yield Destination(OTLP, endpoint, protocol, _environment_headers(environ))


@functools.lru_cache(maxsize=8)  # so that it is said once
def _warn_of_no_endpoint(name: str, _text: str) -> None:
    logger.warning("%s is no endpoint, so no span is shipped; write a URL as http://127.0.0.1:4318", name)


def _protocol_variable(environ: Mapping[str, str]) -> Protocol | None:
    text = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or ""
    if text.strip().lower() == "grpc":
        return "grpc"
    # `http/json` is not in Python's SDK; who takes it takes protobuf on the same port.
    return "http/protobuf" if text.strip().lower().startswith("http") else None


def _parts(text: str, *, scheme: str = "http") -> SplitResult | None:
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"{scheme}://{text}")
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        return None
    if parts.scheme == "unix":
        return parts if parts.path else None
    return parts if parts.scheme in ("http", "https") and parts.hostname and port_is_sound else None


def _url(parts: SplitResult, protocol: Protocol) -> str:
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    if protocol == "grpc" or parts.path.rstrip("/").endswith(_PATH):
        return parts.geturl()
    return parts._replace(path=parts.path.rstrip("/") + _PATH).geturl()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _environment_headers(environ: Mapping[str, str]) -> Headers:
    name = next((n for n in _HEADER_VARIABLES if environ.get(n)), None)
    return () if name is None else _checked_headers(name, environ[name])


@functools.lru_cache(maxsize=8)  # so that it is said once
def _checked_headers(name: str, text: str) -> Headers:
    headers = _headers(text)
    if headers is None:
        logger.warning("%s is ignored: write key=value,key2=value2", name)
    return headers or ()


def _headers(text: str) -> Headers | None:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(sign and name.strip() for name, sign, _ in pairs):
        return None
    headers = tuple((unquote(name).strip().lower(), unquote(value).strip()) for name, _, value in pairs)
    # HTTP has no control characters in them; the error of who sends one would show the value, escaped and so not masked.
    return headers if all(name.isprintable() and value.isprintable() for name, value in headers) else None


# --- opening -------------------------------------------------------------------------------------------------------------


def load_exporter(destination: Destination) -> None:
    """Load what `open_exporter` opens, and with it the loggers that are listened to while it does."""
    with LOADING:
        if destination.exporter == OTLP and destination.protocol == "grpc":
            import opentelemetry.exporter.otlp.proto.grpc.trace_exporter
        elif destination.exporter == OTLP:
            import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401


def open_exporter(destination: Destination) -> SpanExporter:
    """Load and open the exporter of a destination; nothing is connected to yet.

    Raises:
        LookupError: No installed package offers an exporter of that name.
        Exception: Whatever a foreign exporter raises.
    """
    if destination.exporter != OTLP:
        return _of_entry_point(destination.exporter)
    return _grpc(destination) if destination.protocol == "grpc" else _http(destination)


def _grpc(destination: Destination) -> SpanExporter:
    with LOADING:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    parts = urlsplit(destination.endpoint or _DEFAULT_ENDPOINT)
    host = destination.endpoint if parts.scheme == "unix" else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    # Without any, the exporter would take those of the environment, which may be meant for another host.
    headers = destination.headers or (("x-otlp-client", "configurable-agents"),)
    return OTLPSpanExporter(endpoint=host, insecure=parts.scheme in ("http", "unix"), headers=headers)


def _http(destination: Destination) -> SpanExporter:
    with LOADING:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(
        endpoint=destination.endpoint, headers=dict(destination.headers), session=_session(destination)
    )


def _session(destination: Destination) -> Any:
    """Make the session of an exporter over HTTP.

    It takes out the headers that the exporter adds from the environment, which may be meant for another host than the
    one that a file names; and what is no receipt does not count as one.
    """
    import requests

    strange = _names_in_the_environment() - {name for name, _ in destination.headers}
    if not strange and signs_on("traces"):
        return None  # the exporter makes one that signs on
    parts = urlsplit(destination.endpoint or "")

    def without(request: Any) -> Any:
        for name in strange:
            request.headers.pop(name, None)
        if parts.username:  # a session with an `auth` does not look at the URL's
            requests.auth.HTTPBasicAuth(unquote(parts.username), unquote(parts.password or ""))(request)
        return request

    session = checking_session("traces")
    if strange:
        session.auth = without  # called last, before a request is sent
    return session


def _names_in_the_environment() -> set[str]:
    """Give the names of all headers that the exporter could find there: it also takes the sound ones of a list that is not."""
    pairs = [pair for variable in _HEADER_VARIABLES for pair in os.environ.get(variable, "").split(",")]
    return {unquote(pair.partition("=")[0]).strip().lower() for pair in pairs} - {""}


def _of_entry_point(name: str) -> SpanExporter:
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        have = ", ".join(sorted({OTLP, *(point.name for point in entry_points(group=GROUP))} - {_OURS}))
        raise LookupError(f"no installed package offers an exporter {name!r}; there are {have}")
    with LOADING:
        made = found.load()
    exporter: SpanExporter = made()
    return exporter
