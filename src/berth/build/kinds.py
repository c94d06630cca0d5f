"""What an event of a build is about (progress.py). Constants alone: the command line imports them."""

STARTED, CACHED, DONE, FAILED, CANCELLED, LOG, STATUS, WHY, WARNING, PLANNED = (
    "started", "cached", "done", "failed", "cancelled", "log", "status", "why", "warning", "planned",
)  # fmt: skip
