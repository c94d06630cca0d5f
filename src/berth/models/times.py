"""Times as Docker writes them. Pure."""

import time

ZERO_TIME = "0001-01-01T00:00:00Z"


def rfc3339(nanoseconds: int) -> str:
    """Nanoseconds since the epoch as Docker writes times; 0 is Go's zero time."""
    return moment(nanoseconds) if nanoseconds else ZERO_TIME


def moment(nanoseconds: int) -> str:
    """The same where 0 is a time as any other: SOURCE_DATE_EPOCH may be 0."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"
