"""berth stats: a table that is drawn anew each second on a terminal, plain where it is piped."""

import os
import sys
import time

from berth.cli.client import ApiError, query, quote
from berth.cli.command import parse_command
from berth.cli.configfile import text_setting
from berth.cli.flags import Flag, Syntax
from berth.cli.table import binary_size, rows_text, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("all", "a", "bool", "", "Show containers that do not run too"),
    ("format", "", "string", "FORMAT", "table, json, 'table {{.Name}}\\t{{.CPUPerc}}' or a Go template"),
    ("no-stream", "", "bool", "", "Print one result and end"),
    ("no-trunc", "", "bool", "", "Do not shorten ids"),
)
SYNTAX = {"stats": Syntax("[OPTIONS] [CONTAINER...]", _FLAGS)}
_COLUMNS = {
    "Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}  # fmt: skip
_DEFAULT = "ID Name CPUPerc MemUsage MemPerc NetIO BlockIO PIDs"
_INTERVAL_S = 1.0
_CLEAR, _HOME, _END_LINE, _END_SCREEN = "\033[2J", "\033[H", "\033[K", "\033[J"


def stats(call: "Invocation") -> int:
    """berth stats"""
    parsed = parse_command(call, SYNTAX)
    names, everything, whole = parsed.arguments, parsed.flag("all"), parsed.flag("no-trunc")
    previous: dict[str, dict] = {}
    for name in names:
        call.client.request("GET", f"/containers/{quote(name)}/json")  # which of them there is none of is an error at once
    _sample(call, names, everything, previous)
    format_ = parsed.text("format") or text_setting(call.config, "statsFormat")
    live = not parsed.flag("no-stream") and os.isatty(1)
    sys.stdout.write(_CLEAR if live else "")
    while True:
        # What a processor did is the difference of two looks at it.
        time.sleep(_INTERVAL_S)
        rows = [row(shown, sample, before, whole) for shown, sample, before in _sample(call, names, everything, previous)]
        text = rows_text(format_, _COLUMNS, rows, _DEFAULT)
        sys.stdout.write(screen(text, os.get_terminal_size(1).lines) if live else text)
        sys.stdout.flush()
        if parsed.flag("no-stream"):
            return 0


def _sample(call: "Invocation", names: "list[str]", everything: bool, previous: "dict[str, dict]") -> "list[tuple[str, dict, dict]]":
    """(name as given or id, counters, those of the last time); without names by name, what began meanwhile included."""
    wanted = names
    if not names:
        listed = call.client.json("GET", f"/containers/json{query(all=everything)}")
        wanted = [item["Id"] for item in sorted(listed, key=lambda item: str(item["Names"]))]
    found = []
    for name in wanted:
        try:
            sample = call.client.json("GET", f"/containers/{quote(name)}/stats?stream=0&one-shot=1")
        except ApiError as error:
            if error.status != 404:
                raise
            continue  # it was removed
        found.append((name, sample, previous.get(sample["id"], {})))
        previous[sample["id"]] = sample
    return found


def screen(text: str, height: int) -> str:
    """What puts a text in place of the last one, without a flicker; what does not fit is counted. Pure."""
    lines = text.splitlines()
    room = max(height - 1, 2)
    if len(lines) > room:
        lines = [*lines[: room - 1], f"... and {len(lines) - room + 1} more"]
    return _HOME + "".join(f"{line}{_END_LINE}\n" for line in lines) + _END_SCREEN


def row(shown: str, sample: dict, before: dict, whole: bool) -> "dict[str, str]":
    """A container's line. Pure."""
    identity = sample["id"] if whole else sample["id"][:12]
    used, limit = memory(sample["memory_stats"])
    networks = (sample.get("networks") or {}).values()
    received, sent = (sum(network[key] for network in networks) for key in ("rx_bytes", "tx_bytes"))
    read, written = block_io(sample["blkio_stats"])
    return {
        "Container": shown if whole or shown != sample["id"] else identity, "ID": identity, "Name": sample["name"].removeprefix("/"),
        "CPUPerc": f"{cpu_percent(sample['cpu_stats'], before.get('cpu_stats') or {}):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}", "MemPerc": f"{100 * used / limit if limit else 0:.2f}%",
        "NetIO": f"{size(received)} / {size(sent)}", "BlockIO": f"{size(read)} / {size(written)}",
        "PIDs": str(sample["pids_stats"].get("current", 0)),
    }  # fmt: skip


def cpu_percent(now: dict, before: dict) -> float:
    """100 is one whole processor."""
    if "system_cpu_usage" not in before or "system_cpu_usage" not in now:
        return 0.0
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = now["system_cpu_usage"] - before["system_cpu_usage"]
    return max(0.0, used / passed * now["online_cpus"] * 100) if passed > 0 else 0.0


def memory(counters: dict) -> "tuple[int, int]":
    """Bytes used, without the page cache that can be dropped at once, and the limit."""
    used, raw = counters.get("usage", 0), counters.get("stats") or {}
    cache = raw.get("total_inactive_file", raw.get("inactive_file", 0))
    return used - cache if cache < used else used, counters.get("limit", 0)


def block_io(counters: dict) -> "tuple[int, int]":
    """Bytes read and written."""
    totals = {"r": 0, "w": 0}
    for entry in counters.get("io_service_bytes_recursive") or []:
        letter = entry["op"][:1].lower()
        if letter in totals:
            totals[letter] += entry["value"]
    return totals["r"], totals["w"]
