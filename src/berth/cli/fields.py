"""Small forms that values of flags have: addresses, comma-separated fields. Pure, and quick to import."""

import _socket as socket  # `socket` costs 10 ms


def ip_address(text: str) -> str:
    """The address as Go writes it; '' for what is none."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        if packed.startswith(bytes(10) + b"\xff\xff") and len(packed) == 16:
            return socket.inet_ntop(socket.AF_INET, packed[12:])
        return socket.inet_ntop(family, packed)
    return ""


def csv_fields(text: str) -> "list[str]":
    """One line of CSV; ValueError where its quotes do not fit."""
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error:
        raise ValueError("a quote is missing, or one too many is there") from None
    return rows[0] if rows else []


def port_range(text: str) -> "tuple[int, int] | None":
    """`80`, `80-90` -> first and last; None for what is no such thing."""
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first, first]
    if not all(number.isascii() and number.isdigit() and int(number[:9]) < 1 << 16 and len(number.lstrip("0")) < 6 for number in numbers):
        return None
    low, high = int(numbers[0]), int(numbers[1])
    return (low, high) if low <= high else None
