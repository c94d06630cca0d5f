"""What --metrics-addr tells Prometheus: the engine, its containers, its events and its API, as text (format 0.0.4).

Names, labels and buckets are dockerd's where it has the same figure (`engine_daemon_...`), so that dashboards go on working.
"""

import os
import platform
import resource
import time
from collections import Counter

from berth import VERSION
from berth.engine.service import Engine, os_release
from berth.http.exchange import Exchange
from berth.models.prometheus import CONTENT_TYPE, Durations, Labels, family, histogram

_STATES = ("created", "running", "paused", "restarting", "exited", "removing", "dead")
# dockerd knows three: whatever has no process is stopped.
_DOCKERS_STATES = {"running": "running", "restarting": "running", "paused": "paused"}
_ACTIONS = {
    ("GET", "/containers/{id}/changes"): "changes", ("POST", "/commit"): "commit", ("POST", "/containers/create"): "create",
    ("DELETE", "/containers/{id}"): "delete", ("POST", "/containers/{id}/start"): "start",
}  # fmt: skip

class ApiMetrics:
    """Counts and durations of requests, by route and status: a pattern, never a path, so that they stay few."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.durations: dict[tuple[str, str], Durations] = {}
        self.actions = {action: Durations() for action in sorted(_ACTIONS.values())}  # of what succeeded, as dockerd counts

    def observe(self, exchange: Exchange, seconds: float) -> None:
        """A request that was answered. What lasts as long as its client likes has no duration."""
        method = exchange.method if exchange.method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"
        self.requests[method, exchange.route, exchange.status] += 1
        if not exchange.streaming:
            self.durations.setdefault((method, exchange.route), Durations()).add(seconds)
            action = _ACTIONS.get((method, exchange.route))
            if action and exchange.status < 300:
                self.actions[action].add(seconds)


class MetricsPage:
    """The handler of the metrics address."""

    def __init__(self, engine: Engine, api: ApiMetrics) -> None:
        self._engine = engine
        self._api = api
        self._started_s = time.time()

    async def handle(self, exchange: Exchange) -> None:
        if exchange.path != "/metrics" or exchange.method not in ("GET", "HEAD"):
            exchange.respond_text(404, "404 page not found\n")
            return
        exchange.respond_text(200, self.text(), {"Content-Type": CONTENT_TYPE})

    def text(self) -> str:
        """Everything, now."""
        out: list[str] = []
        info = {"version": VERSION, "commit": "", "architecture": self._engine.host.machine, "kernel": platform.release(),
                "os": os_release("PRETTY_NAME"), "os_type": "linux", "os_version": os_release("VERSION_ID"),
                "graphdriver": "overlay2", "daemon_id": self._engine.identity()}  # fmt: skip
        family(out, "engine_daemon_engine_info", "gauge", "The engine and what it runs on", [(info, 1)])
        family(out, "engine_daemon_engine_cpus_cpus", "gauge", "Processors of the host", [({}, os.cpu_count() or 1)])
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        family(out, "engine_daemon_engine_memory_bytes", "gauge", "Memory of the host", [({}, memory_bytes)])
        self._containers(out)
        family(out, "berth_images", "gauge", "Images in the store", [({}, len(self._engine.images.all()))])
        counts = self._engine.events.counts
        family(out, "engine_daemon_events_total", "counter", "Events published", [({}, sum(counts.values()))])
        family(out, "engine_daemon_events_subscribers_total", "gauge", "Listeners for events", [({}, self._engine.events.listeners)])
        health = self._engine.health
        family(out, "engine_daemon_health_checks_total", "counter", "Health checks", [({}, health.checks)])
        family(out, "engine_daemon_health_checks_failed_total", "counter", "Health checks that failed", [({}, health.failed)])
        rows: list[tuple[Labels, float]] = [({"type": kind, "action": action}, number) for (kind, action), number in sorted(counts.items())]
        family(out, "berth_events_total", "counter", "Events published, by type and action", rows)
        rows = [({"method": m, "route": r, "code": str(s)}, n) for (m, r, s), n in sorted(self._api.requests.items())]
        family(out, "berth_api_requests_total", "counter", "API requests answered", rows)
        self._durations(out)
        self._process(out)
        return "\n".join(out) + "\n"

    def _containers(self, out: list[str]) -> None:
        states = Counter(container.record.status for container in self._engine.containers.all())
        dockers = Counter({"paused": 0, "running": 0, "stopped": 0})
        for state, number in states.items():
            dockers[_DOCKERS_STATES.get(state, "stopped")] += number
        rows: list[tuple[Labels, float]] = [({"state": state}, number) for state, number in sorted(dockers.items())]
        family(out, "engine_daemon_container_states_containers", "gauge", "Containers by the states that dockerd tells apart", rows)
        rows = [({"state": state}, states[state]) for state in sorted({*_STATES, *states})]
        family(out, "berth_containers", "gauge", "Containers by state", rows)
        histogram(out, "engine_daemon_container_actions_seconds", "Time that an action on a container took",
                   [({"action": action}, durations) for action, durations in self._api.actions.items()])  # fmt: skip

    def _durations(self, out: list[str]) -> None:
        rows = [({"method": method, "route": route}, row) for (method, route), row in sorted(self._api.durations.items())]
        histogram(out, "berth_api_request_duration_seconds", "Time until an API request was answered; streams are left out", rows)

    def _process(self, out: list[str]) -> None:
        with open("/proc/self/statm") as file:
            virtual, resident = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in file.read().split()[:2])
        usage = resource.getrusage(resource.RUSAGE_SELF)
        family(out, "process_resident_memory_bytes", "gauge", "Resident memory of the engine", [({}, resident)])
        family(out, "process_virtual_memory_bytes", "gauge", "Address space of the engine", [({}, virtual)])
        family(out, "process_cpu_seconds_total", "counter", "Processor time of the engine", [({}, usage.ru_utime + usage.ru_stime)])
        family(out, "process_open_fds", "gauge", "Open descriptors of the engine", [({}, len(os.listdir("/proc/self/fd")))])
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        family(out, "process_max_fds", "gauge", "Descriptors that the engine may open", [({}, most)])
        family(out, "process_start_time_seconds", "gauge", "Start of the engine", [({}, self._started_s)])
