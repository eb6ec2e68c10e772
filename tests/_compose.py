"""Reads docker-compose.yml and what it mounts, as a program would that has neither Docker nor a Collector."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from _source import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"prepare"}
"""Services that do their work and end."""
LASTING = sorted(SERVICES.keys() - ONCE)
CONFIG = ROOT / "collector-config"


def yaml_file(name: str) -> dict[str, Any]:
    """Load a file below collector-config."""
    loaded: dict[str, Any] = yaml.safe_load((CONFIG / name).read_text(encoding="utf-8"))
    return loaded


COLLECTOR = yaml_file("collector.yaml")
JAEGER = yaml_file("jaeger.yaml")
PROMETHEUS = yaml_file("prometheus.yml")
DASHBOARD: dict[str, Any] = json.loads((CONFIG / "grafana/dashboards/workflows.json").read_text(encoding="utf-8"))
JAEGER_UI: dict[str, Any] = json.loads((CONFIG / "jaeger-ui.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Mount:
    """One entry of `volumes`."""

    service: str
    source: str
    target: str
    read_only: bool

    @property
    def is_file(self) -> bool:
        """Whether it is a path of this repository, and no named volume."""
        return self.source.startswith("./")


def mounts() -> Iterator[Mount]:
    """Give every mount of every service."""
    for service, said in SERVICES.items():
        for entry in said.get("volumes", []):
            source, target, *mode = entry.split(":")
            yield Mount(service, source, target, mode == ["ro"])


def volume_at(service: str, path: str) -> str | None:
    """Give the named volume that a path inside a service lies on; None if it is lost with the container."""
    for mount in mounts():
        lies_there = path == mount.target or path.startswith(mount.target + "/")
        if mount.service == service and not mount.is_file and not mount.read_only and lies_there:
            return mount.source
    return None


def published(service: str) -> dict[str, str]:
    """Give the ports that are open on the host, `{port inside: address outside}`."""
    entries = [entry.rpartition(":") for entry in SERVICES[service].get("ports", [])]
    return {inside: outside for outside, _, inside in entries}


def pipelines(config: dict[str, Any], role: str) -> set[str]:
    """Give the names that the pipelines of a Collector or Jaeger use as `receivers`, `processors` or `exporters`."""
    return {name for pipeline in config["service"]["pipelines"].values() for name in pipeline.get(role, [])}


def queries() -> list[str]:
    """Give every query of the dashboard, its variables included."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return asked + [variable["definition"] for variable in DASHBOARD["templating"]["list"]]


def as_prometheus(name: str) -> str:
    """Write a name of OpenTelemetry as Prometheus shows it."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def series_of_spans() -> dict[str, set[str]]:
    """Give the metrics that the Collector makes of spans, each with its labels."""
    counted = COLLECTOR["connectors"]["span_metrics"]
    labels = {as_prometheus(dimension["name"]) for dimension in counted["dimensions"]}
    labels |= {"service_name", "span_name", "span_kind", "status_code", "le"}
    made = {f"traces_span_metrics_{name}": labels for name in ("calls_total", "duration_milliseconds_bucket")}
    for metric in COLLECTOR["connectors"]["signal_to_metrics"]["spans"]:
        own = {as_prometheus(attribute["key"]) for attribute in metric["attributes"]}
        made[f"{as_prometheus(metric['name'])}_total"] = own
    return made
