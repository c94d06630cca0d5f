"""The log driver `local`: one entry a line, compact, in bytes as they came.

    o1764058490123456789 a line of standard output
    E1764058490123456789 a part of a line of standard error (capital: no line feed came with it)

The number is the time in nanoseconds since 1970. Lines of one batch have one time (runtime.jsonlog).
Attributes (labels, env, tag) are the container's own, and no reader needs them in every line.
"""

from berth.runtime.jsonlog import FileLines


class LocalLog(FileLines):
    """The driver local."""

    __slots__ = ()

    def _put(self, stream: str, batch: bytes, now_ns: int) -> None:
        letter = "e" if stream == "stderr" else "o"
        if batch.endswith(b"\n"):
            prefix = f"{letter}{now_ns} ".encode()
            self._file.append(prefix + batch[:-1].replace(b"\n", b"\n" + prefix) + b"\n")
        else:
            self._file.append(f"{letter.upper()}{now_ns} ".encode() + batch + b"\n")
