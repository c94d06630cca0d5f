"""Tables and human units, in Docker's layout."""

import time

from berth.models.units import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def render(rows: "list[list[str]]") -> str:
    """Columns padded to their widest cell and three spaces, ten at least; the last one is not padded."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(max(width + 3, 10)) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("".join(cells) + row[-1])
    return "\n".join(lines) + "\n"


def size(number: float) -> str:
    """Bytes with three or four digits, powers of 1000: `12.3MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000 or unit == "PB":
            text = f"{number:.3g}" if number < 999.5 else f"{number:.0f}"
            return f"{text}{unit}"
        number /= 1000
    return ""


def binary_size(number: float) -> str:
    """Bytes in powers of 1024: `23.54GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if number < 1024 or unit == "PiB":
            return f"{number:.4g}{unit}"
        number /= 1024
    return ""


def age(created_s: float) -> str:
    """`3 minutes ago`."""
    return f"{duration(time.time() - created_s)} ago"


def ago(text: "str | None") -> str:
    """`2026-01-02T03:04:05.6Z` -> `3 hours ago`; '' for no time."""
    if not text or text.startswith("0001"):
        return ""
    from calendar import timegm
    from time import strptime

    return age(timegm(strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))


def natural(text: str) -> "list[tuple[int, int, str]]":
    """A key that sorts names as people count: web2 before web10."""
    pieces: list[tuple[int, int, str]] = []
    index = 0
    while index < len(text):
        end = index
        is_number = text[index] in "0123456789"
        while end < len(text) and (text[end] in "0123456789") == is_number:
            end += 1
        piece = text[index:end]
        pieces.append((0, int(piece), piece) if is_number else (1, 0, piece))
        index = end
    return pieces


def go_time(text: str) -> str:
    """A time of the API, as Go prints one: 2026-01-02T15:04:05.5Z -> 2026-01-02 15:04:05.5 +0000 UTC."""
    day, _, rest = text.partition("T")
    clock = rest.removesuffix("Z")
    if clock != rest:
        return f"{day} {clock} +0000 UTC"
    sign = max(rest.rfind("+"), rest.rfind("-"))
    zone = rest[sign:].replace(":", "")
    return f"{day} {rest[:sign]} {zone} {zone}" if sign > 0 else text


def shorten(text: str, width: int) -> str:
    """At most `width` characters, the last one an ellipsis where something was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


def print_rows(format_: str, columns: "dict[str, str]", rows: "list[dict[str, Any]]", default: str, quiet: bool, key: str) -> None:
    """A list in a `--format`: '' or table for columns, json, or a Go template; quiet prints one column."""
    import sys

    sys.stdout.write("".join(row[key] + "\n" for row in rows) if quiet else rows_text(format_, columns, rows, default))


def rows_text(format_: str, columns: "dict[str, str]", rows: "list[dict[str, Any]]", default: str) -> str:
    """columns: field -> heading. default: the fields of the plain table, separated by spaces."""
    from berth.models.jsonlite import dumps_as_go

    if format_ in ("", "table"):
        fields = default.split()
        return render([[columns[f] for f in fields], *([row[f] for f in fields] for row in rows)])
    rows = [dict(sorted(row.items())) for row in rows]
    if format_ == "json":
        return "".join(dumps_as_go(row) + "\n" for row in rows)
    from berth.cli.gotemplate import Template

    template = Template(format_.removeprefix("table ").replace("\\t", "\t").replace("\\n", "\n"))
    if not format_.startswith("table "):
        return "".join(template.render(row) + "\n" for row in rows)
    heads = template.render(columns).split("\t")
    return render([heads, *(template.render(row).split("\t") for row in rows)])
