"""images --tree: each image with the platforms that its index lists; those that are not here are faint.

The drawing is that of Docker's command line 28, but for the colours that it puts into a pipe too.
"""

import os
import sys

from berth.cli.client import query
from berth.cli.flags import Misuse, Parsed
from berth.cli.progress import printable
from berth.cli.ps import parse_filters
from berth.cli.table import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_SPACING, _LEAST_NAME_COLUMNS, _LEAST_COLUMNS, _PIPE_COLUMNS = 3, 12, 20, 80
_COLUMNS = (("ID", 12, "left"), ("DISK USAGE", 10, "right"), ("CONTENT SIZE", 12, "right"), ("EXTRA", 5, "left"))
_WARNING = "WARNING: This is an experimental feature. The output may change and shouldn't be depended on."

_BOLD, _FAINT, _PLAIN, _NAME, _UNTAGGED = "\x1b[39m\x1b[1m", "\x1b[39m\x1b[2m", "\x1b[39m", "\x1b[34m\x1b[1m", "\x1b[39m\x1b[2m"
_YELLOW, _CHIP = "\x1b[93m", "\x1b[38;5;0m\x1b[48;5;14m"
_LEGEND = f"\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo → \x1b[0m\x1b[0m {_CHIP} U \x1b[0m In Use "
_LEGEND_COLUMNS = 21
_PIPED_LEGEND = "Info ->  U In Use "


def show(call: "Invocation", parsed: Parsed, filters: "list[str]") -> None:
    """Asks and draws. Misuse for flags that have no meaning for a tree."""
    for flag, name in (("quiet", "quiet"), ("no-trunc", "no-trunc"), ("digests", "show-digest"), ("format", "format")):
        if parsed.flag(flag):
            raise Misuse(f"--{name} is not yet supported with --tree")
    path = f"/images/json{query(all=parsed.flag('all'), filters=parse_filters(filters), manifests=1)}"
    nameless = parsed.flag("all") or any(text.startswith("dangling=") for text in filters)
    images = [image for image in call.client.json("GET", path) if nameless or image["RepoTags"]]
    terminal = os.isatty(1)
    columns = os.get_terminal_size(1).columns if terminal else 0
    sys.stdout.write(Drawing(images, columns or _PIPE_COLUMNS, terminal).text())


class Drawing:
    """images: of GET /images/json?manifests=1, newest first; columns: of the terminal; colours: whether it is one."""

    def __init__(self, images: "list[dict[str, Any]]", columns: int, colours: bool) -> None:
        self._images = images
        self._columns = columns
        self._colours = colours
        width, self._shown = max(columns, _LEAST_COLUMNS), 0
        for _, cells, _side in _COLUMNS:
            if width - cells - _SPACING < _LEAST_NAME_COLUMNS:
                break
            width -= cells + _SPACING
            self._shown += 1
        self._name_columns = min(width, max(len(text) for text in ["IMAGE", *(text for image in images for text in _first_cells(image))]))

    def text(self) -> str:
        legend, cells = (_LEGEND, _LEGEND_COLUMNS) if self._colours else (_PIPED_LEGEND, len(_PIPED_LEGEND))
        head = [self._cell("IMAGE", self._name_columns, "left", _BOLD)]
        head += [" " * _SPACING + self._cell(title, cells, "left", _BOLD) for title, cells, _ in _COLUMNS[: self._shown]]
        lines = [self._coloured(_WARNING, _YELLOW), " " * max(0, max(self._columns, _LEAST_COLUMNS) - cells) + legend, "", "".join(head)]
        for image in self._images:
            lines += [*self._image(image), ""]
        return "\n".join(lines) + "\n"

    def _image(self, image: "dict[str, Any]") -> "list[str]":
        children = [item for item in image.get("Manifests") or [] if item["Kind"] == "image"]
        names = sorted(map(printable, image["RepoTags"] or []), key=len, reverse=True)
        lines = [self._coloured(_ellipsis(name, self._columns), _NAME) for name in names[:-1]]
        first = self._cell(names[-1], self._name_columns, "left", _NAME) if names else self._cell("<untagged>", self._name_columns, "left", _UNTAGGED)
        used = image["Containers"] > 0 or any(child["ImageData"]["Containers"] for child in children)
        content = sum(child["Size"]["Content"] for child in children)
        lines.append(first + self._details(image["Id"], image["Size"], content, used, _PLAIN))
        for number, child in enumerate(children):
            colour = _PLAIN if child["Available"] else _FAINT
            branch = "└─ " if number == len(children) - 1 else "├─ "
            lines.append(
                self._cell(branch + _platform(child), self._name_columns, "left", colour)
                + self._details(child["ID"], child["Size"]["Total"], child["Size"]["Content"], bool(child["ImageData"]["Containers"]), colour)
            )
        return lines

    def _details(self, identity: str, disk: int, content: int, used: bool, colour: str) -> str:
        cells = [identity.removeprefix("sha256:")[:12], size(disk), size(content)]
        drawn = [self._cell(text, width, side, colour) for text, (_, width, side) in zip(cells, _COLUMNS, strict=False)]
        drawn.append(f"{_CHIP} U \x1b[0m  " if used and self._colours else f"{'U' if used else '':<5}")
        return "".join(" " * _SPACING + cell for cell in drawn[: self._shown])

    def _cell(self, text: str, cells: int, side: str, colour: str) -> str:
        text = _ellipsis(text, cells)
        rest = " " * (cells - len(text))
        return rest + self._coloured(text, colour) if side == "right" else self._coloured(text, colour) + rest

    def _coloured(self, text: str, colour: str) -> str:
        return f"{colour}{text}\x1b[0m" if self._colours else text


def _first_cells(image: "dict[str, Any]") -> "list[str]":
    children = [f"└─ {_platform(item)}" for item in image.get("Manifests") or [] if item["Kind"] == "image"]
    return [*(image["RepoTags"] or ["<untagged>"]), *children]


def _platform(item: "dict[str, Any]") -> str:
    found = item["ImageData"]["Platform"]
    return printable("/".join(part for part in (found.get("os"), found.get("architecture"), found.get("variant")) if part))


def _ellipsis(text: str, cells: int) -> str:
    return text if len(text) <= cells else text[: cells - 1] + "…"
