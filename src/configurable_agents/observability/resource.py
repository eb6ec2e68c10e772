"""Says on whose behalf spans and metrics are made: the resource, adopted from the host where there is one."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson
from opentelemetry import trace
from opentelemetry.environment_variables import OTEL_PYTHON_TRACER_PROVIDER
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.version import __version__ as sdk_version

DEFAULT_SERVICE_NAME: Final = "configurable-agents"

_SERVICE_NAME: Final = "service.name"
_INSTANCE_ID: Final = "service.instance.id"
_SDK_PREFIX: Final = "telemetry.sdk."
_SCHEMA_URL: Final = "$schema_url"
"""Beside the attributes; no attribute of a resource has such a name."""
_VARIABLES: Final = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS")


class SharedResource(Resource):
    """A resource that many spans have, as whoever encodes them asks for its hash with each: the SDK's takes 40 µs."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def shared(resource: Resource) -> SharedResource:
    """Give the same resource with a cheap hash."""
    if isinstance(resource, SharedResource):
        return resource
    return SharedResource(resource.attributes, resource.schema_url)


def host_provider(environ: Mapping[str, str]) -> TracerProvider | None:
    """Give the SDK's tracer provider that the program has set up; None where it has none, or none of the SDK's."""
    # Where there is none the API looks into `os.environ`, which takes long. The attribute is its own, and not trusted to be there.
    if getattr(trace, "_TRACER_PROVIDER", trace) is None and OTEL_PYTHON_TRACER_PROVIDER not in environ:
        return None
    try:
        provider = trace.get_tracer_provider()
    except Exception:  # noqa: BLE001 - `OTEL_PYTHON_TRACER_PROVIDER` names none that can be loaded; the API has logged it
        return None
    return provider if isinstance(provider, TracerProvider) else None


def current_resource(
    host: TracerProvider | None, environ: Mapping[str, str], *, with_instance: bool = False
) -> Resource:
    """Give the resource of the host's tracer provider, else our own, as the environment says.

    Args:
        host: What `host_provider` gave.
        with_instance: Leave in the random `service.instance.id` of this process that newer SDKs add: cumulative metrics
            need one to be told apart. On a span it would only make each process look like another service.
    """
    if host is not None:
        with contextlib.suppress(Exception):  # foreign code: what a vendor derives from the SDK's may raise anything
            return host.resource
    # The process's id is in the key because a forked child is another instance.
    return _own(tuple(map(environ.get, _VARIABLES)), os.getpid() if with_instance else None)


@functools.lru_cache(maxsize=8)
def _own(environment: tuple[str | None, ...], process: int | None) -> Resource:
    """Give our own resource: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` over our defaults."""
    found = Resource.create()
    attributes: dict[str, Any] = dict(found.attributes)
    if str(attributes.get(_SERVICE_NAME, "")).startswith("unknown_service"):  # the SDK's own default
        attributes[_SERVICE_NAME] = DEFAULT_SERVICE_NAME
    if process is None and f"{_INSTANCE_ID}=" not in (environment[1] or ""):
        attributes.pop(_INSTANCE_ID, None)
    return SharedResource(attributes, found.schema_url)


def resource_text(resource: Resource) -> str | None:
    """Give as a JSON object what a resource has other than our default one (null for what it lacks); None if that is nothing."""
    return _text_of_shared(resource) if isinstance(resource, SharedResource) else _text(resource)


@functools.lru_cache(maxsize=8)  # every run asks
def _text_of_shared(resource: SharedResource) -> str | None:
    return _text(resource)


def _text(resource: Resource) -> str | None:
    defaults = _defaults()
    whole = {**dict.fromkeys(defaults, None), **resource.attributes}
    if resource.schema_url:
        whole[_SCHEMA_URL] = resource.schema_url
    other = {key: value for key, value in whole.items() if value is None or value != defaults.get(key)}
    return orjson.dumps(other, default=_plain).decode() if other else None


def resource_of(text: str | None) -> Resource:
    """Make the resource that `resource_text` gave the text of."""
    other: dict[str, Any] = orjson.loads(text) if text else {}
    schema_url = other.pop(_SCHEMA_URL, None)
    attributes = {**other, **{key: value for key, value in _defaults().items() if key not in other}}
    return Resource({key: value for key, value in attributes.items() if value is not None}, schema_url)


@functools.lru_cache(maxsize=1)
def _defaults() -> Mapping[str, str]:
    # Not from `Resource.create()`: it starts threads, which fails where a program's last spans come at its end.
    sdk = {"language": "python", "name": "opentelemetry", "version": sdk_version}
    return MappingProxyType(
        {**{_SDK_PREFIX + key: value for key, value in sdk.items()}, _SERVICE_NAME: DEFAULT_SERVICE_NAME}
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else str(value)
