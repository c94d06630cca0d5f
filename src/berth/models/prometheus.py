"""Metrics as Prometheus reads them: text, format 0.0.4. Pure."""

from bisect import bisect_left

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = dict[str, str]


class Durations:
    """A histogram: how many lasted up to each bound of _BUCKETS_S, how many longer, and all their seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BUCKETS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(_BUCKETS_S, seconds)] += 1
        self._sum_s += seconds

    def samples(self, name: str, labels: Labels) -> list[str]:
        found, total = [], 0
        for bound, count in zip((*(f"{bound:g}" for bound in _BUCKETS_S), "+Inf"), self._counts, strict=True):
            total += count
            found.append(sample(f"{name}_bucket", {**labels, "le": bound}, total))
        return [*found, sample(f"{name}_sum", labels, self._sum_s), sample(f"{name}_count", labels, total)]


def family(out: list[str], name: str, kind: str, text: str, rows: list[tuple[Labels, float]]) -> None:
    """One metric with its samples."""
    out += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(sample(name, labels, value) for labels, value in rows)]


def histogram(out: list[str], name: str, text: str, rows: list[tuple[Labels, Durations]]) -> None:
    """One metric of durations."""
    out += [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
    for labels, durations in rows:
        out += durations.samples(name, labels)


def sample(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    number = str(int(value)) if value == int(value) else repr(value)
    return f"{name}{{{pairs}}} {number}" if pairs else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
