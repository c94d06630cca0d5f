"""How Docker words amounts, for the engine's payloads and the command line's tables alike. Pure."""


def duration(seconds: float) -> str:
    """Docker's rough durations: 'About a minute', '3 hours', '2 weeks'."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, divisor, word in ((48, 1, "hours"), (336, 24, "days"), (1440, 168, "weeks"), (17520, 720, "months")):
        if hours < limit:
            return f"{hours // divisor} {word}"
    return f"{hours // 8760} years"


def human_size(number: float) -> str:
    """Bytes in powers of 1000, with at most four digits: `1.984MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000 or unit == "PB":
            return f"{number:.4g}{unit}"
        number /= 1000
    return ""
