"""Why a container ended, would not start or is as it is: facts -> a verdict in words. Pure; facts.py gathers them.

What is certain comes first: what the engine, the monitor and the kernel's counters recorded. Only where they leave it
open, the program's own last words decide (words.py), and the verdict says that it is likely and no more.
"""

from berth.engine import restarts, state
from berth.engine.why import start as why_start
from berth.engine.why import words as why_words
from berth.engine.why.model import Facts, Verdict, signal_name, size_text, without_stop
from berth.linux import signals
from berth.models.units import duration

_KILL, _SYS = 9, 31
_SHELLS = ("sh", "bash", "ash", "dash", "zsh", "busybox", "python", "python3", "node", "irb")
_CRASHES = {
    "SIGSEGV": "it used memory that is not its own", "SIGBUS": "memory it had mapped could not be had",
    "SIGILL": "it used an instruction that this CPU does not have", "SIGFPE": "it divided by zero or the like",
    "SIGABRT": "it gave up by itself (abort, a failed assertion)", "SIGTRAP": "it ran into a breakpoint",
}  # fmt: skip
_ENDING = ("stop", "restart", "rm", "engine")
_HARMLESS = (signals.SIGWINCH, signals.SIGCHLD, signals.SIGCONT, signals.SIGURG)
_SOON_NS = 10_000_000_000
_ASKED = {
    "stop": "`stop`", "kill": "`kill`", "restart": "`restart`", "rm": "`rm --force`", "engine": "the engine, which was told to end its containers,",
}  # fmt: skip


def judge(facts: Facts) -> Verdict:
    """The verdict on a container as it is now."""
    if facts.removed:
        how = "was removed with --rm" if facts.host.get("AutoRemove") else "was removed"
        return _after(f"{how}; before that, it", "removed", _start_or_end(facts) if facts.end or facts.error else _created(facts))
    judges = {
        state.RUNNING: _running, state.PAUSED: _paused, state.RESTARTING: _restarting, state.CREATED: _created,
        state.REMOVING: _removing,
    }  # fmt: skip
    return judges.get(facts.status, _start_or_end)(facts)


def _after(head: str, reason: str, inner: Verdict) -> Verdict:
    return Verdict(reason, f"{head} {inner.sentence}", inner.advice, inner.likely)


# -- not ended ----------------------------------------------------------------------------------------


def _running(facts: Facts) -> Verdict:
    since = duration((facts.now_ns - facts.started_ns) / 1e9).lower()
    health = facts.health or {}
    if health.get("Status") == "unhealthy":
        last = (health.get("Log") or [{}])[-1]
        output = why_words.printable(last.get("Output") or "").strip()
        said = f"; the last said: {output.splitlines()[-1][:200]!r}" if output else ""
        code = last.get("ExitCode", -1)
        how = f"the last ended with {code}" if code >= 0 else "the last could not run or took too long"
        return Verdict(
            "unhealthy", f"runs, but is unhealthy: {health['FailingStreak']} checks in a row failed, {how}{said}",
            f"run the check by hand with `berth exec`: {why_words.shown_command(facts.health_command)}",
        )  # fmt: skip
    extra = f", {health['Status']}" if health.get("Status") else ""
    if facts.restarts:
        inner = _end(facts)
        times = "once" if facts.restarts == 1 else f"{facts.restarts} times"
        return Verdict("running", f"runs since {since}{extra}; it was restarted {times}, because it {inner.sentence}", inner.advice, inner.likely)
    if facts.oom_killed:
        return Verdict("running", f"runs since {since}{extra}, but the kernel killed a process in it for want of memory{_memory(facts)}", _MORE_MEMORY)
    return Verdict("running", f"runs since {since}{extra}")


def _removing(facts: Facts) -> Verdict:
    return Verdict("removing", "is being removed")


def _paused(facts: Facts) -> Verdict:
    return Verdict("paused", "is paused: its processes are frozen", "`berth unpause` lets it go on")


def _restarting(facts: Facts) -> Verdict:
    inner = _end(facts)
    left = max(0.0, (facts.restart_due_ns - facts.now_ns) / 1e9)
    policy = restarts.policy_of(facts.host).name
    return Verdict(
        "restarting", f"waits {left:.1f} s more for restart {facts.restarts} under its policy {policy}, because it {inner.sentence}",
        inner.advice or "`berth stop` ends this, `berth logs` shows what each run said", inner.likely,
    )  # fmt: skip


def _created(facts: Facts) -> Verdict:
    if facts.error:
        return why_start.failed(facts)
    bad = why_start.foreseen(facts)
    if bad:
        return bad
    return Verdict("created", "was created and never started", "`berth start` starts it")


# -- ended --------------------------------------------------------------------------------------------


def _start_or_end(facts: Facts) -> Verdict:
    if facts.error and facts.error != facts.end.get("error"):
        return why_start.failed(facts)
    return _end(facts)


def _end(facts: Facts) -> Verdict:
    end = facts.end
    if not end:
        return Verdict("exited", f"ended with exit code {facts.exit_code}", "an earlier version of berth ran it: there is no more to tell")
    if end.get("lost") == "host":
        return Verdict("host", "ended with its host, which was restarted", "a restart policy starts it with the engine: `berth update --restart`")
    if end.get("lost") == "socket":
        return Verdict("monitor", "was ended by the engine, which could not reach its monitor: the socket below --exec-root was gone",
                       "find out who cleans up in /run/berth while containers run")  # fmt: skip
    if end.get("lost"):
        return Verdict(
            "monitor", "was ended because its monitor, the process of berth beside it, had been killed",
            "find out who killed it: the kernel's log names a victim of the OOM killer, and `systemctl stop` of a wrong unit may be it",
        )  # fmt: skip
    if end.get("cancelled_by"):
        head = f"waited to be restarted when {_ASKED.get(end['cancelled_by'], 'somebody')} ended that; before, it"
        return _after(head, "stopped", _ended_itself(facts))
    return _ended_itself(facts)


def _ended_itself(facts: Facts) -> Verdict:
    end = facts.end
    code, number = end["exit_code"], end.get("signal") or 0
    asked = [one for one in end.get("asked") or [] if _may_have_ended(one, end)]
    return (
        (_by_request(facts, asked, number, code) if asked else None)
        or (_out_of_memory(facts, number, code) if end.get("oom_killed") else None)
        or (_by_signal(facts, number) if number else None)
        or _by_exit(facts, code)
    )


def _may_have_ended(one: dict, end: dict) -> bool:
    """Whether a signal that was asked for has to do with the end: a SIGHUP of last week that reloaded something has not."""
    number = one["signal"]
    if one.get("by") in _ENDING or number == _KILL or number in (end.get("signal"), end["exit_code"] - 128):
        return True
    return number not in _HARMLESS and end["finished_ns"] - one["at_ns"] < _SOON_NS


def _by_request(facts: Facts, asked: list[dict], number: int, code: int) -> Verdict | None:
    """Ended by somebody's signal; None where it ended for another reason, and a signal came besides."""
    last = asked[-1]
    who = _ASKED.get(last.get("by", ""), "somebody through the API")
    first = next((one for one in asked if one.get("by") == last.get("by")), last)
    if number == _KILL and last["signal"] == _KILL:
        if first["signal"] != _KILL and last.get("by") != "kill":
            waited = (last["at_ns"] - first["at_ns"]) / 1e9
            advice = "let it handle the signal, or run it under --init, or say with --stop-signal which one it knows"
            if without_stop(facts.command, facts.host):
                advice = "a first process without a handler never gets the signal: run it under --init, or let the program handle it"
            return Verdict("killed", f"did not end on {signal_name(first['signal'])} within {waited:.0f} s and was killed by {who}", advice)
        return Verdict("killed", f"was killed (SIGKILL) by {who}", "")
    sent = {one["signal"] for one in asked}
    if number in sent or code - 128 in sent or (code == 0 and sent):
        name = signal_name(number or (code - 128 if code - 128 in sent else last["signal"]))
        ended = f"ended by {name}" if number else f"ended with exit code {code} on {name}"
        return Verdict("stopped", f"{ended}, which {who} sent")
    if number or facts.end.get("oom_killed"):
        return None
    return Verdict("stopped", f"ended with exit code {code} after {who} had sent {signal_name(last['signal'])}", _see_logs(facts))


_MORE_MEMORY = "give it more (`berth update --memory`), or let the program use less"


def _limit_and_peak(facts: Facts) -> tuple[int, int]:
    """In bytes, 0 for none; of another runtime's container there is only the limit that was asked for."""
    limit, peak = facts.end.get("memory_limit_bytes") or 0, facts.end.get("memory_peak_bytes") or 0
    return limit if limit or peak else facts.host.get("Memory") or 0, peak


def _memory(facts: Facts) -> str:
    limit, peak = _limit_and_peak(facts)
    words = ([f"limit {size_text(limit)}"] if limit else []) + ([f"peak {size_text(peak)}"] if peak else [])
    return f" ({', '.join(words)})" if words else ""


def _out_of_memory(facts: Facts, number: int, code: int) -> Verdict:
    limit, peak = _limit_and_peak(facts)
    advice = _MORE_MEMORY
    cause = f"for want of memory{_memory(facts)}"
    if not limit or (peak and peak < limit * 9 // 10):
        cause = f"because the host, or a group above the container's, had no memory left{_memory(facts)}"
        advice = "look what else uses the host's memory (`berth stats`), and give containers limits"
    if number == _KILL:
        return Verdict("oom", f"was killed by the kernel {cause}", advice)
    return Verdict("oom", f"ended with exit code {code} after the kernel had killed a process in it {cause}", advice)


def _by_signal(facts: Facts, number: int) -> Verdict:
    name = signal_name(number)
    if number == _SYS:
        return why_words.killed_by_seccomp(facts)
    if name in _CRASHES:
        advice = _see_logs(facts) or "look for a core file or run it under a debugger"
        if name == "SIGBUS":
            advice = f"/dev/shm ({size_text(facts.host.get('ShmSize') or 64 << 20)}) or a disk may be full: `--shm-size`"
        elif name == "SIGILL":
            advice = "take a build for an older CPU"
        core = ", and left a core file" if facts.end.get("core") else ""
        detail = f" (kernel: {facts.kernel_line!r})" if facts.kernel_line else ""
        return Verdict("crashed", f"crashed with {name}: {_CRASHES[name]}{core}{detail}", advice)
    if name in ("SIGXCPU", "SIGXFSZ"):
        what = "CPU time (ulimit cpu)" if name == "SIGXCPU" else "file size (ulimit fsize)"
        return Verdict("signal", f"was ended by {name}: it reached its limit of {what}", "raise it with --ulimit")
    return Verdict(
        "signal", f"was ended by {name}, and nobody had asked berth for it: it came from a process of the host or of the container itself",
        "look who sends it: a supervisor, an OOM daemon, a script with kill" if number == _KILL else _see_logs(facts),
    )  # fmt: skip


def _by_exit(facts: Facts, code: int) -> Verdict:
    if code == 0:
        shell = len(facts.command) == 1 and facts.command[0].rsplit("/", 1)[-1] in _SHELLS and not facts.open_stdin
        advice = "a shell without input ends at once: -it gives it a terminal" if shell else ""
        return Verdict("done", "ended by itself with exit code 0, which means success", advice)
    found = why_start.told_too_late(facts, code) or why_words.meaning(facts, code)
    if found:
        return found
    if facts.end.get("pids_refused"):
        return Verdict(
            "pids", f"ended with exit code {code} after it had reached its limit of {facts.end.get('pids_limit', '?')} processes",
            "raise it with `berth update --pids-limit`", likely=True,
        )  # fmt: skip
    said = why_words.last_line(facts.lines)
    quoted = f"; its last words: {said!r}" if said else ""
    if code in (126, 127):
        what = "found a command that it could not execute" if code == 126 else "did not find a command"
        return Verdict("exited", f"ended with exit code {code}: a shell says so that {what}{quoted}", "see that the image has it, executable", likely=True)
    if 128 < code <= 128 + signals.LAST:
        name = signal_name(code - 128)
        return Verdict(
            "exited", f"ended with exit code {code}: a shell or init says so when a program under it was ended by {name}{quoted}",
            _see_logs(facts), likely=True,
        )  # fmt: skip
    return Verdict("exited", f"ended by itself with exit code {code}{quoted}", "" if said else "it wrote nothing to its log; run it with more verbose options")


def _see_logs(facts: Facts) -> str:
    return f"its last words: {said!r}" if (said := why_words.last_line(facts.lines)) else ""
