"""What --metrics-addr tells Prometheus: the engine, its containers, its events and its API, as text (format 0.0.4).

Names are dockerd's where it has the same figure (`engine_daemon_...`), so that dashboards go on working.
"""

import os
import resource
import time
from bisect import bisect_left
from collections import Counter

from berth import VERSION
from berth.engine.service import Engine
from berth.http.exchange import Exchange

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_STATES = ("created", "running", "paused", "restarting", "exited", "removing", "dead")

Labels = dict[str, str]


class ApiMetrics:
    """Counts and durations of requests, by route and status: a pattern, never a path, so that they stay few."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.durations: dict[tuple[str, str], list[float]] = {}  # buckets, then the rest, then the sum of seconds

    def observe(self, exchange: Exchange, seconds: float) -> None:
        """A request that was answered. What lasts as long as its client likes has no duration."""
        method = exchange.method if exchange.method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"
        self.requests[method, exchange.route, exchange.status] += 1
        if not exchange.streaming:
            row = self.durations.setdefault((method, exchange.route), [0.0] * (len(_BUCKETS_S) + 2))
            row[bisect_left(_BUCKETS_S, seconds)] += 1
            row[-1] += seconds


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
        version = self._engine.version()
        info = {"version": VERSION, "architecture": version["Arch"], "kernel": version["KernelVersion"], "os_type": "linux",
                "graphdriver": "overlay2", "daemon_id": self._engine.identity()}  # fmt: skip
        family(out, "engine_daemon_engine_info", "gauge", "The engine and what it runs on", [(info, 1)])
        family(out, "engine_daemon_engine_cpus_cpus", "gauge", "Processors of the host", [({}, os.cpu_count() or 1)])
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        family(out, "engine_daemon_engine_memory_bytes", "gauge", "Memory of the host", [({}, memory_bytes)])
        states = Counter(container.record.status for container in self._engine.containers.all())
        rows: list[tuple[Labels, float]] = [({"state": state}, states[state]) for state in sorted({*_STATES, *states})]
        family(out, "engine_daemon_container_states_containers", "gauge", "Containers by state", rows)
        family(out, "berth_images", "gauge", "Images in the store", [({}, len(self._engine.images.all()))])
        counts = self._engine.events.counts
        family(out, "engine_daemon_events_total", "counter", "Events published", [({}, sum(counts.values()))])
        rows = [({"type": kind, "action": action}, number) for (kind, action), number in sorted(counts.items())]
        family(out, "berth_events_total", "counter", "Events published, by type and action", rows)
        rows = [({"method": m, "route": r, "code": str(s)}, n) for (m, r, s), n in sorted(self._api.requests.items())]
        family(out, "berth_api_requests_total", "counter", "API requests answered", rows)
        self._durations(out)
        self._process(out)
        return "\n".join(out) + "\n"

    def _durations(self, out: list[str]) -> None:
        name = "berth_api_request_duration_seconds"
        out += [f"# HELP {name} Time until an API request was answered; streams are left out", f"# TYPE {name} histogram"]
        for (method, route), row in sorted(self._api.durations.items()):
            labels, total = {"method": method, "route": route}, 0.0
            for bound, count in zip((*(f"{b:g}" for b in _BUCKETS_S), "+Inf"), row, strict=False):
                total += count
                out.append(sample(f"{name}_bucket", {**labels, "le": bound}, total))
            out += [sample(f"{name}_sum", labels, row[-1]), sample(f"{name}_count", labels, total)]

    def _process(self, out: list[str]) -> None:
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        family(out, "process_resident_memory_bytes", "gauge", "Resident memory of the engine", [({}, resident)])
        family(out, "process_cpu_seconds_total", "counter", "Processor time of the engine", [({}, usage.ru_utime + usage.ru_stime)])
        family(out, "process_open_fds", "gauge", "Open descriptors of the engine", [({}, len(os.listdir("/proc/self/fd")))])
        family(out, "process_start_time_seconds", "gauge", "Start of the engine", [({}, self._started_s)])


# -- the text format ----------------------------------------------------------------------------------------


def family(out: list[str], name: str, kind: str, text: str, rows: list[tuple[Labels, float]]) -> None:
    """One metric with its samples."""
    out += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(sample(name, labels, value) for labels, value in rows)]


def sample(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    number = str(int(value)) if value == int(value) else repr(value)
    return f"{name}{{{pairs}}} {number}" if pairs else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
