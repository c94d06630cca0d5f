"""Durations as Go reads and writes them (`1h30m`, `1.5s`, `250ms`), which Docker's flags and texts use. Pure."""

_UNITS = {
    "ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}  # fmt: skip
_MAX_NS = (1 << 63) - 1


def parse_ns(text: str) -> int:
    """Nanoseconds; ValueError in Go's words for what is none."""
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = 0
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµμmsh"))]
        rest = rest[len(unit) :]
        whole, _, fraction = number.partition(".")
        if not whole + fraction or "." in fraction or unit not in _UNITS or len(number) > 40:
            raise ValueError(f'time: invalid duration "{text}"')
        total += int(whole or "0") * _UNITS[unit] + int(fraction or "0") * _UNITS[unit] // 10 ** len(fraction)
    if not text.strip("+-") or total > _MAX_NS:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if negative else total


def text_of(nanoseconds: int) -> str:
    """`1m30s`, `1.5s`, `250ms`, `0s`."""
    sign, left = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if left == 0:
        return "0s"
    for unit, above in (("ns", 1000), ("µs", 1_000_000), ("ms", 1_000_000_000)):
        if left < above:
            return f"{sign}{_fraction(left, _UNITS[unit])}{unit}"
    minutes, rest = divmod(left, _UNITS["m"])
    text = f"{_fraction(rest, _UNITS['s'])}s"
    if minutes >= 60:
        return f"{sign}{minutes // 60}h{minutes % 60}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else f"{sign}{text}"


def _fraction(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0") if rest else str(whole)
