"""Updates of limits and policy: what a request changes, what of it is written to a live cgroup, what is refused."""

import errno

import pytest

from berth.cli.commands import COMMANDS
from berth.cli.update import _FLAGS
from berth.engine import bundle, updates, validate
from berth.errors import BerthError, Conflict, InvalidParameter, SystemFailure

MIB = 1 << 20


@pytest.mark.parametrize(
    ("request_", "changes"),
    [
        ({}, {}), ({"Memory": 0, "CpuShares": None, "CpusetCpus": "", "BlkioDeviceReadBps": []}, {}),
        ({"Memory": 64 * MIB, "Unknown": 1}, {"Memory": 64 * MIB}), ({"PidsLimit": -1}, {"PidsLimit": 0}), ({"PidsLimit": 0}, {"PidsLimit": 0}),
        ({"PidsLimit": 9}, {"PidsLimit": 9}), ({"RestartPolicy": {"Name": ""}}, {}), ({"RestartPolicy": None}, {}),
        ({"RestartPolicy": {"Name": "always"}}, {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}}),
        ({"MemorySwap": -1}, {"MemorySwap": -1}), ({"CpuQuota": -1}, {"CpuQuota": -1}),
    ],
)  # fmt: skip
def test_what_a_request_changes(request_: dict, changes: dict) -> None:
    assert updates.wanted(request_) == changes


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"Memory": 1}, "Minimum memory limit allowed is 6MB"), ({"Memory": "1"}, "expected a number"), ({"CpuPeriod": 7}, "CPU cfs period"),
        ({"MemoryReservation": 1}, "Minimum memory reservation allowed is 6MB"), ({"CpusetCpus": "x"}, "Invalid value x for cpuset cpus"),
        ({"CpusetCpus": "4000"}, "Requested CPUs are not available - requested 4000, available: 0"), ({"BlkioWeight": 5}, "Range of blkio weight"),
        ({"CpusetMems": "63"}, "Requested memory nodes are not available"), ({"RestartPolicy": {"Name": "bogus"}}, "unknown policy 'bogus'"),
        ({"RestartPolicy": []}, "expected an object"), ({"PidsLimit": "x"}, "expected a number"),
        ({"Memory": 32 * MIB, "MemorySwap": 16 * MIB}, "Minimum memoryswap limit"),
    ],
)  # fmt: skip
def test_requests_that_are_refused(request_: dict, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        updates.wanted(request_)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("host", "changes", "kind", "words"),
    [
        ({}, {"Memory": 32 * MIB}, Conflict, "Memory limit should be smaller than already set memoryswap limit"),
        ({"Memory": MIB, "MemorySwap": 2 * MIB}, {"Memory": 3 * MIB}, Conflict, "update the memoryswap at the same time"),
        ({"Memory": 8 * MIB, "MemorySwap": 16 * MIB}, {"MemorySwap": 7 * MIB}, InvalidParameter, "Minimum memoryswap limit"),
        ({"MemoryReservation": 9 * MIB, "MemorySwap": 16 * MIB}, {"Memory": 8 * MIB}, InvalidParameter, "memory reservation limit"),
        ({"NanoCpus": 1}, {"CpuQuota": 1}, Conflict, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        ({"NanoCpus": 1}, {"CpuPeriod": 1}, Conflict, "CPU Period cannot be updated as NanoCPUs"),
        ({"CpuQuota": 1}, {"NanoCpus": 1}, Conflict, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ({"CpuPeriod": 1}, {"NanoCpus": 1}, Conflict, "Nano CPUs cannot be updated as CPU Period"),
        ({"AutoRemove": True}, {"RestartPolicy": {"Name": "always"}}, Conflict, "AutoRemove is enabled"),
    ],
)  # fmt: skip
def test_changes_that_do_not_go_with_what_is_there(host: dict, changes: dict, kind: type[BerthError], words: str) -> None:
    with pytest.raises(kind) as caught:
        updates.merged(host, changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("host", "changes", "resources"),
    [
        ({}, {}, {}),
        ({}, {"RestartPolicy": {"Name": "no"}}, {}),
        ({"Memory": 64, "MemorySwap": 128}, {"Memory": 32}, {"memory": {"limit": 32, "swap": 128}}),
        ({"Memory": 64, "MemorySwap": -1}, {"Memory": 32}, {"memory": {"limit": 32, "swap": -1}}),
        ({"Memory": 64, "MemorySwap": 128}, {"MemorySwap": 256}, {"memory": {"swap": 256}}),
        ({}, {"MemoryReservation": 5}, {"memory": {"reservation": 5}}),
        ({"CpuShares": 9}, {"CpuQuota": 5000}, {"cpu": {"quota": 5000}}),
        ({}, {"NanoCpus": 1_500_000_000}, {"cpu": {"period": 100_000, "quota": 150_000}}),
        ({}, {"CpusetCpus": "0", "CpusetMems": "0"}, {"cpu": {"cpus": "0", "mems": "0"}}),
        ({}, {"PidsLimit": 0}, {"pids": {"limit": -1}}),
        ({"PidsLimit": 3}, {"PidsLimit": 9}, {"pids": {"limit": 9}}),
        ({}, {"BlkioWeight": 300}, {"blockIO": {"weight": 300}}),
    ],
)  # fmt: skip
def test_what_is_written_to_a_live_group(host: dict, changes: dict, resources: dict) -> None:
    assert updates.live_resources({**host, **changes}, changes) == resources


def test_an_update_keeps_the_rest() -> None:
    host = {"Memory": 64 * MIB, "MemorySwap": 128 * MIB, "CapAdd": ["X"], "RestartPolicy": {"Name": "always"}}
    assert updates.merged(host, {"Memory": 100 * MIB}) == {**host, "Memory": 100 * MIB}
    assert updates.merged({**host, "AutoRemove": True}, {"RestartPolicy": {"Name": "no"}})["RestartPolicy"] == {"Name": "no"}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", {0}), ("0-2,4", {0, 1, 2, 4}), ("", None), ("x", None), ("2-1", None), ("1-", None), ("-1", None), ("0,,1", None), ("999999", None)],
)
def test_number_sets(text: str, numbers: set[int] | None) -> None:
    assert validate.number_set(text) == numbers


def test_the_command_has_dockers_flags() -> None:
    docker = "blkio-weight cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems memory"
    docker += " memory-reservation memory-swap pids-limit restart"
    ours = "mount-add mount-rm publish-add publish-rm"
    assert [flag[0] for flag in _FLAGS if flag[0] not in ours.split()] == docker.split()
    assert COMMANDS["update"][:2] == ("update", "update")


@pytest.mark.parametrize(
    "request_",
    [
        {"MemorySwap": -7}, {"MemoryReservation": -9}, {"CpuShares": -5}, {"CpuQuota": -2}, {"CpuRealtimeRuntime": -1},
        {"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": -5}]},
    ],
)  # fmt: skip
def test_numbers_below_no_limit(request_: dict) -> None:
    with pytest.raises(InvalidParameter, match="cannot be"):
        updates.wanted(request_)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EINVAL, InvalidParameter), (errno.ENODEV, InvalidParameter), (errno.EBUSY, Conflict), (errno.EIO, SystemFailure)]
)
def test_what_the_kernel_refuses_is_the_requests_fault(number: int, kind: type[BerthError]) -> None:
    error = SystemFailure("x")
    error.__cause__ = OSError(number, "x")
    assert type(updates.refusal(error)) is kind
    assert type(updates.refusal(SystemFailure("x"))) is SystemFailure


def test_a_device_without_its_number_has_none() -> None:
    assert bundle.resources({"BlkioWeightDevice": [{"Path": "/dev/null"}]}, True, [])["blockIO"]["weightDevice"][0]["weight"] == 0
