"""Each field of config.json, seen from outside: by the kernel's files and by other tools, never by asking berth."""

import pytest
from oci import Oci, with_user_namespace

pytestmark = pytest.mark.root


def test_harness(oci: Oci, runc: Oci) -> None:
    for runtime in (oci, runc):
        box = runtime.up({"hostname": "box"})
        assert box.exec("hostname").stdout == "box\n"
        assert box.mount("/sys")["fstype"] == "sysfs"
        assert box.status("NSpid").split()[1] == "1"
        assert runtime.run(runtime.bundle(args=["sh", "-c", "echo here; exit 3"]), code=3).stdout == "here\n"
        assert runtime.groups()
        assert runtime.processes()


def test_user_namespace(oci: Oci) -> None:
    assert oci.up(with_user_namespace()).status("Uid").split()[0] == "200000"
