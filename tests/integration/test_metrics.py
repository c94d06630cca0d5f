"""--metrics-addr, read by Prometheus' own parser, and compared with what the real dockerd tells."""

import subprocess
from collections.abc import Iterator

import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from harness import Engine, free_port, wait_until
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.root

# What dockerd counts and berth has nothing of: networks, and the time of reading four files of the host.
NOT_HERE = {"engine_daemon_network_actions_seconds", "engine_daemon_host_info_functions_seconds"}


def page(port: int) -> str:
    return subprocess.run(["curl", "-sS", f"http://127.0.0.1:{port}/metrics"], capture_output=True, text=True, check=True).stdout


def families(port: int) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page(port))}


@pytest.fixture(scope="module")
def measured(rootfs_tar: str) -> Iterator[tuple[Engine, int]]:
    port = free_port()
    engine = Engine(("--metrics-addr", f"127.0.0.1:{port}"))
    engine.docker("import", rootfs_tar, "bb")
    yield engine, port
    engine.finish()


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    """A sample's value; fails where it is not there."""
    samples = [sample for family in found.values() for sample in family.samples if sample.name == name and sample.labels == labels]
    assert samples, f"no {name} {labels}"
    return float(samples[0].value)


def test_what_is_counted(measured: tuple[Engine, int]) -> None:
    engine, port = measured
    check = ("--health-cmd", "test -e /tmp/well", "--health-interval", "100ms", "--health-retries", "1000")
    identity, paused = engine.up(*check), engine.up()
    engine.docker("pause", paused)
    stopped = engine.docker("create", "bb", "true").stdout.strip()
    engine.docker("inspect", "no-such-container", code=1)
    wait_until(lambda: value(families(port), "engine_daemon_health_checks_failed_total") >= 1, "no failed health check")
    engine.docker("exec", identity, "touch", "/tmp/well")
    wait_until(lambda: engine.state(identity)["Health"]["Status"] == "healthy", "no good health check")
    found = families(port)
    assert value(found, "engine_daemon_health_checks_total") > value(found, "engine_daemon_health_checks_failed_total")
    states = {state: value(found, "engine_daemon_container_states_containers", state=state) for state in ("running", "paused", "stopped")}
    assert states == {"running": 1, "paused": 1, "stopped": 1}
    assert value(found, "berth_containers", state="created") == 1
    assert value(found, "berth_events_total", type="container", action="start") == 2
    assert value(found, "berth_api_requests_total", method="GET", route="/containers/{id}/json", code="404") == 1
    assert value(found, "berth_api_request_duration_seconds_count", method="POST", route="/containers/{id}/start") == 2
    assert value(found, "engine_daemon_container_actions_seconds_count", action="start") == 2
    assert value(found, "engine_daemon_container_actions_seconds_count", action="create") == 3
    assert value(found, "engine_daemon_container_actions_seconds_bucket", action="create", le="+Inf") == 3
    assert value(found, "process_resident_memory_bytes") > 1 << 20
    heads = [line.split()[2] for line in page(port).splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads)), "a family is there twice"
    info = found["engine_daemon_engine_info"].samples[0].labels
    assert info["daemon_id"] == engine.docker("info", "-f", "{{.ID}}").stdout.strip()
    engine.rm(identity, paused, stopped)
    listening = subprocess.Popen(["docker", "events"], env=engine.env, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: value(families(port), "engine_daemon_events_subscribers_total") == 1, "nobody listens")
    finally:
        listening.kill()
        listening.wait()
    elsewhere = subprocess.run(["curl", "-sS", f"http://127.0.0.1:{port}/containers/json"], capture_output=True, text=True).stdout
    assert "page not found" in elsewhere, "the API is not there"


@pytest.mark.skipif(not HAVE_DOCKERD, reason="needs Debian's docker.io and containerd")
def test_dashboards_made_for_dockerd(measured: tuple[Engine, int]) -> None:
    """Each of the daemon's own figures has the same name, kind, labels and buckets here."""
    port = free_port()
    theirs = Dockerd("--experimental", "--metrics-addr", f"127.0.0.1:{port}", image=False)
    try:
        expected = {name: family for name, family in families(port).items() if name.startswith("engine_daemon_") and name not in NOT_HERE}
    finally:
        theirs.finish()
    assert len(expected) > 8
    ours = families(measured[1])

    def shape(family: Metric) -> tuple[str, set[tuple]]:
        values = ("state", "action", "le")
        return family.type, {(s.name, *sorted((k, v if k in values else "") for k, v in s.labels.items())) for s in family.samples}

    for name, family in expected.items():
        assert name in ours
        assert shape(ours[name]) == shape(family), name
