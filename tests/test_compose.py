"""docker-compose.yml and collector-config/ hang together: what one file names, another has."""

from __future__ import annotations

import re

import pytest

from _compose import (
    COLLECTOR,
    COMPOSE,
    CONFIG,
    DASHBOARD,
    JAEGER,
    JAEGER_UI,
    LASTING,
    ONCE,
    PROMETHEUS,
    SERVICES,
    as_prometheus,
    mounts,
    pipelines,
    published,
    queries,
    series_of_spans,
    volume_at,
    yaml_file,
)
from _source import ROOT
from configurable_agents import semconv

OWN_METRICS = {
    "otelcol_exporter_queue_size",
    "otelcol_exporter_queue_capacity",
    "otelcol_receiver_accepted_spans",
    "otelcol_receiver_refused_spans",
}
"""What the Collector tells of itself, and we ask for."""
PROBE = "/probe/busybox"
MIB = 1024 * 1024


# --- services ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_image_is_pinned_to_a_version(service: str) -> None:
    """`latest` is another program tomorrow."""
    name, _, tag = SERVICES[service]["image"].rpartition(":")
    assert name
    assert re.match(r"v?\d+\.\d+\.\d+", tag), f"{service} runs {tag!r}"


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_port_is_open_on_the_loopback_address_only(service: str) -> None:
    """Nobody logs in here: a port on all addresses would show prompts to the network."""
    assert all(outside.startswith("127.0.0.1:") for outside in published(service).values())


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_has_limits_and_no_more_rights_than_it_needs(service: str) -> None:
    """What shows runs must not take the machine that runs them."""
    said = SERVICES[service]
    assert said["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert said["cap_drop"] == ["ALL"]
    assert said["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", LASTING)
def test_every_lasting_service_comes_back_and_says_how_it_is(service: str) -> None:
    """A health check that cannot run in the image would call a sound service ill for ever."""
    said = SERVICES[service]
    command, program, *_ = said["healthcheck"]["test"]
    assert said["restart"] == "unless-stopped"
    # Of the images' own tools nothing is known, and the Collector's image has no shell: all use the one laid beside them.
    assert (command, program) == ("CMD", PROBE)
    assert f"probe:{PROBE.rpartition('/')[0]}:ro" in said["volumes"]
    assert said["depends_on"]["prepare"] == {"condition": "service_completed_successfully"}


def test_the_health_checks_ask_where_the_services_answer() -> None:
    """Two files say the port."""
    asked = {service: SERVICES[service]["healthcheck"]["test"][-1] for service in LASTING}
    for service, endpoint in [
        ("collector", COLLECTOR["extensions"]["health_check"]["endpoint"]),
        ("jaeger", JAEGER["extensions"]["healthcheckv2"]["http"]["endpoint"]),
    ]:
        assert asked[service].startswith(f"http://{endpoint}/")
    for service in ("prometheus", "grafana"):
        (port,) = published(service)
        assert asked[service].startswith(f"http://127.0.0.1:{port}/")


# --- files and volumes ---------------------------------------------------------------------------------------------------


def test_every_mounted_file_is_there_and_every_file_is_mounted() -> None:
    """Docker makes a directory of a missing file, and the service starts without its configuration."""
    sources = [ROOT / mount.source for mount in mounts() if mount.is_file]
    assert [str(source) for source in sources if not source.exists()] == []
    files = [path for path in CONFIG.rglob("*") if path.is_file()]
    assert [str(path) for path in files if not any(path.is_relative_to(source) for source in sources)] == []
    assert all(mount.read_only for mount in mounts() if mount.is_file)


def test_every_volume_is_declared_and_used() -> None:
    """A name that is not declared stops `docker compose up`."""
    assert {mount.source for mount in mounts() if not mount.is_file} == COMPOSE["volumes"].keys()


def test_what_other_users_write_to_is_handed_to_them_first() -> None:
    """Fresh volumes belong to root; the Collector and Jaeger run as user 10001."""
    script = SERVICES["prepare"]["command"][-1]
    handed = re.findall(r"/\w+", re.search(r"chown 10001:10001 (.*)", script)[1])  # type: ignore[index]  # asserted below
    volumes = {volume_at("prepare", path) for path in handed}
    directories = JAEGER["extensions"]["jaeger_storage"]["backends"]["traces"]["badger"]["directories"]
    assert volumes == {volume_at("collector", _queue_directory()), volume_at("jaeger", directories["keys"])}
    # Renamed into place: a program that a health check is running cannot be written to.
    assert re.search(r"cp /bin/busybox (\S+)\s+mv -f \1 " + PROBE, script)
    assert SERVICES["prepare"]["image"].endswith("-musl"), "the others have no C library for a busybox of another kind"


# --- pipelines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [COLLECTOR, JAEGER], ids=["collector", "jaeger"])
def test_the_pipelines_use_what_is_defined_and_nothing_is_defined_in_vain(config: dict[str, dict[str, object]]) -> None:
    """A component without a pipeline is dead text that a reader believes."""
    connectors = set(config.get("connectors", {}))
    assert pipelines(config, "receivers") == set(config["receivers"]) | connectors
    assert pipelines(config, "exporters") == set(config["exporters"]) | connectors
    assert pipelines(config, "processors") == set(config.get("processors", {}))
    assert set(config["service"]["extensions"]) == set(config["extensions"])  # type: ignore[call-overload]  # YAML


def _queue_directory() -> str:
    queue = COLLECTOR["exporters"]["otlp_grpc/jaeger"]["sending_queue"]
    assert queue["storage"] in COLLECTOR["service"]["extensions"]
    directory: str = COLLECTOR["extensions"][queue["storage"]]["directory"]
    return directory


def test_the_queue_survives_a_restart_and_gives_nothing_up() -> None:
    """Without a volume, or with the default of five minutes, spans would be lost without a word."""
    exporter = COLLECTOR["exporters"]["otlp_grpc/jaeger"]
    assert volume_at("collector", _queue_directory()) is not None
    assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s"
    queue = exporter["sending_queue"]
    assert queue["sizer"] == "bytes"
    assert queue["batch"]["min_size"] <= queue["batch"]["max_size"] < 4 * MIB <= queue["queue_size"]


def test_jaeger_keeps_traces_on_a_volume_and_answers_after_writing() -> None:
    """A queue in memory between the Collector's and the disk would lose what the Collector has let go."""
    name = JAEGER["exporters"]["jaeger_storage_exporter"]["trace_storage"]
    storage = JAEGER["extensions"]["jaeger_storage"]
    badger = storage["backends"][name]["badger"]
    assert badger["ephemeral"] is False
    assert all(volume_at("jaeger", directory) for directory in badger["directories"].values())
    assert "queue" not in JAEGER["exporters"]["jaeger_storage_exporter"]
    assert pipelines(JAEGER, "processors") == set()
    asked = JAEGER["extensions"]["jaeger_query"]["storage"]
    assert (asked["traces"], {asked["metrics"]}) == (name, set(storage["metric_backends"]))


def test_the_memory_limiter_comes_first_and_acts_before_the_container_ends() -> None:
    """It refuses with a word; the kernel's out-of-memory killer does not."""
    limit = COLLECTOR["processors"]["memory_limiter"]["limit_mib"]
    container = SERVICES["collector"]["deploy"]["resources"]["limits"]["memory"]
    assert limit < int(container.removesuffix("M"))
    for name, pipeline in COLLECTOR["service"]["pipelines"].items():
        if "otlp" in pipeline["receivers"]:
            assert pipeline["processors"][0] == "memory_limiter", name


# --- who talks to whom ---------------------------------------------------------------------------------------------------


def _port(endpoint: str) -> str:
    return endpoint.rpartition(":")[2]


def test_the_services_find_each_other() -> None:
    """Names and ports stand in five files."""
    taken = COLLECTOR["receivers"]["otlp"]["protocols"]
    assert set(published("collector")) == {_port(taken["grpc"]["endpoint"]), _port(taken["http"]["endpoint"])}
    jaeger_port = _port(JAEGER["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"])
    assert COLLECTOR["exporters"]["otlp_grpc/jaeger"]["endpoint"] == f"jaeger:{jaeger_port}"
    assert set(published("jaeger")) == {_port(JAEGER["extensions"]["jaeger_query"]["http"]["endpoint"])}
    metrics = JAEGER["extensions"]["jaeger_storage"]["metric_backends"]["prometheus"]["prometheus"]
    assert metrics["endpoint"] == "http://prometheus:" + next(iter(published("prometheus")))


def test_prometheus_asks_every_service_that_tells_something() -> None:
    """A target that nobody serves is an empty Monitor tab."""
    kinds = ("spans", "programs")
    served = {f"collector:{_port(COLLECTOR['exporters'][f'prometheus/{kind}']['endpoint'])}" for kind in kinds}
    for service, config in [("collector", COLLECTOR), ("jaeger", JAEGER)]:
        for reader in config["service"]["telemetry"]["metrics"]["readers"]:
            served.add(f"{service}:{reader['pull']['exporter']['prometheus']['port']}")
    targets = [
        target for job in PROMETHEUS["scrape_configs"] for said in job["static_configs"] for target in said["targets"]
    ]
    assert set(targets) == served


def test_grafana_is_told_of_its_sources_and_its_dashboard() -> None:
    """A dashboard whose source has another uid shows nothing but errors."""
    sources = yaml_file("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    for source in sources:
        service, _, port = source["url"].removeprefix("http://").partition(":")
        assert port in published(service)
    uids = {source["uid"] for source in sources}
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel}
    assert used <= uids
    (provider,) = yaml_file("grafana/provisioning/dashboards/dashboards.yaml")["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    mounted = {mount.target: mount.source for mount in mounts() if mount.service == "grafana"}
    assert (ROOT / mounted[provider["options"]["path"]] / home.rpartition("/")[2]).exists()
    assert SERVICES["grafana"]["profiles"] == ["grafana"]


# --- names ---------------------------------------------------------------------------------------------------------------


def test_the_dashboard_asks_for_metrics_and_labels_that_are_made() -> None:
    """A query with a name that nobody makes is an empty panel, and no error."""
    made = series_of_spans()
    wanted = set[str]()
    for query in queries():
        for metric, inside in re.findall(r"\b((?:traces|otelcol)_\w+)(?:\{([^}]*)\})?", query):
            wanted.add(metric)
            labels = set(re.findall(r"(\w+)\s*(?:=~|!=|=)\s*\"", inside))
            assert metric in OWN_METRICS or labels <= made.get(metric, set()), query
        grouped = {label.strip() for by in re.findall(r"by \(([^)]+)\)", query) for label in by.split(",")}
        assert grouped <= set[str]().union(*made.values()), query
    assert wanted == made.keys() | OWN_METRICS, "each metric that is made is shown"


def test_the_collector_and_the_ui_name_attributes_that_spans_have() -> None:
    """Attribute names stand once, in semconv.py; here they are copied."""
    ours = {value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)}
    for name in ("collector.yaml", "jaeger-ui.json"):
        text = (CONFIG / name).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:gen_ai|configurable_agents|error)\.[a-z_.]*[a-z_]", text)) - set(
            JAEGER_UI["topTagPrefixes"]
        )
        assert {attribute for attribute in named if f"{attribute}." not in JAEGER_UI["topTagPrefixes"]} <= ours


def test_no_dimension_has_as_many_values_as_there_are_runs() -> None:
    """Each value is a time series that Prometheus keeps for a month."""
    labels = set[str]().union(*series_of_spans().values())
    assert labels.isdisjoint(
        {as_prometheus(name) for name in (semconv.RUN_ID, semconv.SEQ, semconv.GEN_AI_RESPONSE_ID)}
    )


def test_only_one_service_is_done_when_it_has_done_its_work() -> None:
    """The others are looked after above."""
    assert {service for service, said in SERVICES.items() if "restart" not in said} == ONCE
