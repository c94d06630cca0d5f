"""Variables of linked containers; beside dockerd's own in tests/integration/test_network_parity.py."""

from berth.engine.nets import linkenv
from berth.network import etcfiles


def test_one_port() -> None:
    found = linkenv.variables("/web/my-db", "172.17.0.2", [(5432, "tcp")], ["A=b=c", "PATH=/bin", "HOME=/", "B"])
    assert found == [
        "MY_DB_PORT=tcp://172.17.0.2:5432", "MY_DB_PORT_5432_TCP=tcp://172.17.0.2:5432", "MY_DB_PORT_5432_TCP_ADDR=172.17.0.2",
        "MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_PORT_5432_TCP_PROTO=tcp", "MY_DB_NAME=/web/my-db", "MY_DB_ENV_A=b=c",
    ]  # fmt: skip


def test_no_port() -> None:
    assert linkenv.variables("/web/db", "172.17.0.2", [], []) == ["DB_NAME=/web/db"]


def test_tcp_comes_first_and_so_does_the_lowest() -> None:
    assert linkenv.variables("/w/d", "1.2.3.4", [(90, "tcp"), (53, "udp"), (53, "tcp")], [])[0] == "D_PORT=tcp://1.2.3.4:53"


def test_a_hosts_file_follows_a_linked_container() -> None:
    text = "127.0.0.1\tlocalhost\n# mine\n172.17.0.2\tdb 0123 postgres\nfd00::2\tdb 0123 postgres\n172.17.0.3\tdb2 x\n"
    moved = etcfiles.moved_hosts(text, "db", ["172.17.0.9", "fd00::9"])
    assert moved == "127.0.0.1\tlocalhost\n# mine\n172.17.0.9\tdb 0123 postgres\nfd00::9\tdb 0123 postgres\n172.17.0.3\tdb2 x\n"
    assert etcfiles.moved_hosts(text, "nobody", ["172.17.0.9"]) == text
