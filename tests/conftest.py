"""What every test may use. Skips follow what the kernel lets us do, not who we are."""

import os
from collections.abc import Iterator

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # property tests are skipped
    pass
else:  # before any test is defined: a machine that is busy must not fail one
    settings.register_profile("berth", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
    settings.load_profile("berth")


# Modules that take minutes; where several run side by side (./test), none of them should be left for the end.
_FIRST = ("test_systemd_host.py", "test_oci_faults.py", "test_oci_checkpoint.py", "test_random_kills.py", "test_fuzz_api.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m "not root"` is for machines without root; with it absent, a test marked root fails there."""
    items.sort(key=lambda item: _FIRST.index(item.path.name) if item.path.name in _FIRST else len(_FIRST))
    if os.geteuid() == 0:
        return
    for item in items:
        if "root" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(autouse=True)
def no_leaked_descriptors() -> Iterator[None]:
    """A descriptor has one owner, who closes it."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    after = {fd for fd in os.listdir("/proc/self/fd") if fd not in before and os.path.lexists(f"/proc/self/fd/{fd}")}
    leaked = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in after}
    leaked = {fd: path for fd, path in leaked.items() if not path.startswith(("anon_inode:", "/dev/urandom"))}
    assert not leaked, f"the test leaves descriptors open: {leaked}"
