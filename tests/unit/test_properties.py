"""Properties that hold for any input; a second, simpler way to say it is the oracle."""

import contextlib

import pytest

pytest.importorskip("hypothesis", reason="property tests need hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from berth.engine import bundle, mountpoints
from berth.errors import BerthError
from berth.linux import cgroup_v2, mount, seccomp, syscall_tables
from berth.oci import reference
from berth.runtime import frames
from bpf import AUDIT_X86_64, device_model, run_classic, run_device

ALLOW = 0x7FFF0000
WORD = st.one_of(st.integers(0, 5), st.integers(0, (1 << 64) - 1), st.sampled_from([1 << 32, (1 << 32) - 1, (1 << 32) + 1, (1 << 64) - 1]))
OPERATORS = {
    "SCMP_CMP_EQ": lambda a, v, _: a == v, "SCMP_CMP_NE": lambda a, v, _: a != v, "SCMP_CMP_LT": lambda a, v, _: a < v,
    "SCMP_CMP_LE": lambda a, v, _: a <= v, "SCMP_CMP_GT": lambda a, v, _: a > v, "SCMP_CMP_GE": lambda a, v, _: a >= v,
    "SCMP_CMP_MASKED_EQ": lambda a, v, two: a & v == two & v,
}  # fmt: skip


@given(st.sampled_from(sorted(OPERATORS)), st.integers(0, 5), WORD, WORD, WORD)
def test_seccomp_compares_64_bits(operator: str, index: int, value: int, two: int, argument: int) -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": index, "value": value, "valueTwo": two, "op": operator}]}
    program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_KILL", "syscalls": [rule]}, "x86_64")
    arguments = [0] * index + [argument]
    expected = ALLOW if OPERATORS[operator](argument, value, two) else 0
    assert run_classic(program, AUDIT_X86_64, 0, *arguments) == expected
    assert run_classic(program, AUDIT_X86_64, 1, *arguments) == 0


@given(st.sets(st.sampled_from(sorted(syscall_tables.numbers("X86_64"))), min_size=1), st.integers(0, 600))
def test_seccomp_finds_every_number(names: set[str], number: int) -> None:
    profile = {"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{"names": sorted(names), "action": "SCMP_ACT_ALLOW"}]}
    program = seccomp.compile_profile(profile, "x86_64")
    table = syscall_tables.numbers("X86_64")
    expected = ALLOW if number in {table[name] for name in names} else 0x80000000
    assert run_classic(program, AUDIT_X86_64, number) == expected


RULE = st.fixed_dictionaries(
    {"allow": st.booleans()},
    optional={
        "type": st.sampled_from(["a", "b", "c"]), "major": st.sampled_from([None, -1, 0, 1, 2]), "minor": st.sampled_from([None, -1, 0, 1, 2]),
        "access": st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm", ""]),
    },
)  # fmt: skip


@given(st.lists(RULE, max_size=8), st.sampled_from("bc"), st.integers(1, 7), st.integers(0, 3), st.integers(0, 3))
def test_device_program_is_the_model(rules: list[dict], kind: str, access: int, major: int, minor: int) -> None:
    letters = "".join(letter for letter, bit in (("m", 1), ("r", 2), ("w", 4)) if access & bit)
    got = run_device(cgroup_v2.device_program(rules), {"b": 1, "c": 2}[kind], access, major, minor)
    assert got == device_model(rules, kind, letters, major, minor)


KIND = st.sampled_from([frames.STDOUT, frames.STDERR, frames.STARTED, frames.EXITED])


@given(st.lists(st.tuples(KIND, st.binary(max_size=40)), max_size=6), st.lists(st.integers(1, 9)))
def test_frames_may_be_split_anywhere(sent: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(frames.encode(kind, payload) for kind, payload in sent)
    decoder, got = frames.Decoder(), []
    for cut in [*cuts, len(stream)]:
        got += decoder.feed(stream[:cut])
        stream = stream[cut:]
    assert got == sent


@given(st.binary(max_size=60))
def test_frames_of_noise_never_break_the_reader(noise: bytes) -> None:
    decoder, got = frames.Decoder(), b""
    with contextlib.suppress(ValueError):  # a length that cannot be
        for byte in noise:
            got += b"".join(frames.encode(kind, payload) for kind, payload in decoder.feed(bytes((byte,))))
    assert noise.startswith(got)


@given(st.binary(min_size=1, max_size=4).map(lambda b: bytes(x % 3 for x in b)), st.lists(st.binary(max_size=6).map(lambda b: bytes(x % 3 for x in b))))
def test_detaching_is_finding_a_substring(keys: bytes, pieces: list[bytes]) -> None:
    streams = pytest.importorskip("berth.api.streams")
    watch = streams.DetachFilter(keys)
    passed, found = b"", False
    for piece in pieces:
        data, found = watch.feed(piece)
        passed += data
        if found:
            break
    whole = b"".join(pieces)
    at = whole.find(keys)
    assert found == (at >= 0)
    if found:
        assert passed == whole[:at]
    else:
        held = whole[len(passed) :]
        assert whole.startswith(passed)
        assert keys.startswith(held)


@given(st.text(max_size=60))
def test_references_parse_or_refuse(text: str) -> None:
    try:
        found = reference.parse(text)
    except BerthError:
        return
    again = reference.parse(found.familiar)
    assert [getattr(again, slot) for slot in found.__slots__] == [getattr(found, slot) for slot in found.__slots__]


@given(st.lists(st.sampled_from(["ro", "rw", "nosuid", "suid", "noexec", "exec", "noatime", "atime", "bind", "rbind", "size=1"])))
def test_an_option_is_set_or_cleared_never_both(options: list[str]) -> None:
    parsed = mount.parse_options(options)
    assert not parsed.flags & parsed.cleared
    for on, off in (("ro", "rw"), ("nosuid", "suid"), ("noexec", "exec")):
        last = next((o for o in reversed(options) if o in (on, off)), off)
        assert bool(parsed.flags & mount._SET[on]) == (last == on)


@given(st.lists(st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/d", "/proc/x", "/dev/shm/y"]).filter(lambda p: p != "/"), unique=True))
def test_no_mount_hides_another(places: list[str]) -> None:
    found = [m["destination"] for m in bundle._mounts(
        {}, {},
        bundle.Facts(machine="x86_64", bounding=0, apparmor=False, selinux=False, cgroup_version=2, landlock_abi=0, id_maps=None, init="",
                     shared_pids={}, user=None, directory="/c", devices=[],  # type: ignore[arg-type]
                     mounts=[mountpoints.bind("/s", place, ["rbind"]) for place in places]),
        False,
    )]  # fmt: skip
    for index, place in enumerate(found):
        assert not any(place.startswith(f"{later}/") for later in found[index + 1 :])
