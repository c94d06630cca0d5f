"""What a registry counts, and its page for Prometheus."""

import os
from collections import Counter
from collections.abc import Callable

from berth.models.prometheus import Durations, Labels, family, histogram


class Metrics:
    """Requests by route (a pattern, never a path, so that they stay few), bytes, pulls and pushes, collections."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.durations: dict[tuple[str, str], Durations] = {}
        self.sent_bytes = 0  # of blobs
        self.received_bytes = 0
        self.pulls = self.pushes = 0
        self.cache: Counter[str] = Counter()  # hit, miss
        self.fetched_bytes = 0
        self.collections = 0
        self.freed_bytes = 0
        self.under_way = 0

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE") else "other"
        self.requests[method, route, status] += 1
        self.durations.setdefault((method, route), Durations()).add(seconds)

    def text(self, now: dict[str, Callable[[], float]]) -> str:
        """now: figures that are asked for when they are wanted, by name."""
        out: list[str] = []
        rows: list[tuple[Labels, float]] = [({"method": m, "route": r, "code": str(s)}, n) for (m, r, s), n in sorted(self.requests.items())]
        family(out, "berth_registry_requests_total", "counter", "Requests answered", rows)
        histogram(out, "berth_registry_request_duration_seconds", "Time until a request was answered, its body included",
                  [({"method": m, "route": r}, one) for (m, r), one in sorted(self.durations.items())])  # fmt: skip
        for name, kind, text, value in (
            ("requests_under_way", "gauge", "Requests that are being answered", self.under_way),
            ("blob_sent_bytes_total", "counter", "Bytes of blobs sent", self.sent_bytes),
            ("blob_received_bytes_total", "counter", "Bytes of blobs received", self.received_bytes),
            ("pulls_total", "counter", "Images pulled", self.pulls),
            ("pushes_total", "counter", "Manifests pushed", self.pushes),
            ("cache_fetched_bytes_total", "counter", "Bytes fetched from the registry that is cached", self.fetched_bytes),
            ("collections_total", "counter", "Garbage collections that ended", self.collections),
            ("collected_bytes_total", "counter", "Bytes that garbage collections freed", self.freed_bytes),
        ):  # fmt: skip
            family(out, f"berth_registry_{name}", kind, text, [({}, value)])
        rows = [({"result": result}, self.cache[result]) for result in ("hit", "miss")]
        family(out, "berth_registry_cache_total", "counter", "Blobs and manifests asked of the cache", rows)
        for name, ask in now.items():
            family(out, f"berth_registry_{name}", "gauge", name.replace("_", " ").capitalize(), [({}, ask())])
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        family(out, "process_resident_memory_bytes", "gauge", "Resident memory", [({}, resident)])
        family(out, "process_open_fds", "gauge", "Open descriptors", [({}, len(os.listdir("/proc/self/fd")))])
        return "\n".join(out) + "\n"
