"""`GET /images/search`: which of a registry's finds are wanted. Pure."""

from berth.errors import InvalidParameter

_KNOWN = ("is-automated", "is-official", "stars")


class Wanted:
    """What filters ask for; None where they do not say."""

    __slots__ = ("automated", "official", "stars")

    def __init__(self, official: bool | None, automated: bool | None, stars: int) -> None:
        self.official = official
        self.automated = automated
        self.stars = stars


def checked(filters: dict[str, list[str]]) -> Wanted:
    """InvalidParameter for filters that are none."""
    for key in filters:
        if key not in _KNOWN:
            raise InvalidParameter(f"invalid filter '{key}'")
    stars = 0
    for text in filters.get("stars", []):
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InvalidParameter(f"invalid filter 'stars=[{text}]': not a number")
        stars = max(stars, int(text))
    return Wanted(_flag(filters, "is-official"), _flag(filters, "is-automated"), stars)


def _flag(filters: dict[str, list[str]], key: str) -> bool | None:
    values = filters.get(key, [])
    if not values:
        return None
    if set(values) <= {"true", "1"}:
        return True
    if set(values) <= {"false", "0"}:
        return False
    raise InvalidParameter(f"invalid filter '{key}={values}'")


def chosen(found: list[dict], wanted: Wanted) -> list[dict]:
    """Docker's fields of those that are wanted."""
    entries = [
        {
            "star_count": _number(entry.get("star_count")), "is_official": bool(entry.get("is_official")), "name": str(entry.get("name") or ""),
            "is_automated": bool(entry.get("is_automated")), "description": str(entry.get("description") or ""),
        }
        for entry in found
    ]  # fmt: skip
    return [
        entry for entry in entries
        if (wanted.official is None or entry["is_official"] == wanted.official)
        and (wanted.automated is None or entry["is_automated"] == wanted.automated) and _number(entry["star_count"]) >= wanted.stars
    ]  # fmt: skip


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
