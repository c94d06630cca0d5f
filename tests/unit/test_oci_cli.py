"""The command line of the OCI runtime, and what its verbs draw on, without root."""

import pytest

from berth import errors
from berth.linux import sockets
from berth.runtime import container
from berth.runtime.init import Launch, report_failure


def test_what_a_child_reports_is_read_though_it_left_a_word_unread() -> None:
    """The kernel then says ECONNRESET before it hands out what the child had sent; that must not count as an execve."""
    ours, theirs = sockets.channel()
    ours.send(b"c")
    report_failure(theirs, errors.CommandNotExecutable("exec: no"), None)
    theirs.close()
    with pytest.raises(errors.CommandNotExecutable, match="exec: no"):
        container.await_exec(ours, Launch())
    ours.close()
