"""PostgreSQL and nginx of Debian in containers, reached by their own clients: from the host, from another container by name, from another host."""

from collections.abc import Iterator

import netlab
import pytest
from debianparts import HAVE_PARTS, POSTGRES, make_image
from harness import Engine, wait_until
from netlab import Lab

if not HAVE_PARTS:
    pytest.skip("needs Debian's postgresql and nginx", allow_module_level=True)

pytestmark = pytest.mark.root
NGINX = ("nginx", "-c", "/etc/nginx.conf")


@pytest.fixture(scope="module")
def net(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With a database, two web servers, and a network of them all."""
    running = Engine((), lab.enter("host"), bridge=True)
    path = tmp_path_factory.mktemp("parts") / "parts.tar"
    make_image(str(path))
    running.docker("import", str(path), "parts")
    running.docker("network", "create", "--ipv6", "shop")
    run = ("run", "-d", "--network", "shop")
    running.docker(*run, "--name", "db", "--network-alias", "database", "-p", "15432:5432", "-v", "shopdata:/data", "-e", "PGDATA=/data/pg", "--user", "70", "parts", "sh", "-c", POSTGRES)
    running.docker(*run, "--name", "web", "-p", "18080:80", "-h", "web", "parts", *NGINX)
    running.docker(*run, "--name", "front", "-p", "127.0.0.1:18081:80", "-h", "front", "parts", *NGINX)
    wait_until(lambda: "accepting" in running.docker("exec", "db", "pg_isready", "-h", "127.0.0.1", code=None).stdout, "the database")
    wait_until(lambda: lab.fetch("host", "http://127.0.0.1:18080/").startswith("web "), "the web server")
    yield running
    running.docker("rm", "-f", "db", "web", "front")
    running.docker("network", "rm", "shop")
    running.docker("volume", "rm", "shopdata")
    running.finish()


def psql(lab: Lab, host: str, address: str, sql: str) -> str:
    done = lab.at(host, "psql", "-At", "-U", "postgres", "-h", address, "-p", "15432", "-c", sql, check=False)
    return done.stdout.strip() or done.stderr.strip()


def test_the_database_from_everywhere(net: Engine, lab: Lab) -> None:
    assert psql(lab, "host", "127.0.0.1", "create table if not exists t (n int); insert into t select generate_series(1, 100000); select count(*) from t").endswith("100000")
    assert psql(lab, "client", netlab.HOST, "select count(*) from t") == "100000"
    assert psql(lab, "client", netlab.HOST6, "select count(*) from t") == "100000"
    by_name = net.docker("exec", "web", "psql", "-At", "-U", "postgres", "-h", "database", "-c", "select sum(n) from t").stdout.strip()
    assert by_name == "5000050000"
    # who asks is seen as who they are
    assert psql(lab, "client", netlab.HOST, "select client_addr from pg_stat_activity where pid = pg_backend_pid()") == netlab.CLIENT
    assert psql(lab, "client", netlab.HOST6, "select client_addr from pg_stat_activity where pid = pg_backend_pid()") == netlab.CLIENT6
    own = netlab.settings(net, "web")["Networks"]["shop"]
    seen = net.docker("exec", "web", "psql", "-At", "-U", "postgres", "-h", "db", "-c", "select client_addr from pg_stat_activity where pid = pg_backend_pid()").stdout.strip()
    assert seen in (own["IPAddress"], own["GlobalIPv6Address"])


def test_what_was_written_is_there_after_a_restart(net: Engine, lab: Lab) -> None:
    psql(lab, "host", "127.0.0.1", "create table if not exists kept (word text); delete from kept; insert into kept values ('kept')")
    net.docker("restart", "db")
    wait_until(lambda: psql(lab, "client", netlab.HOST, "select word from kept") == "kept", "the database, after a restart")
    net.kill()
    assert psql(lab, "client", netlab.HOST, "select word from kept") == "kept"
    net.start()
    assert psql(lab, "client", netlab.HOST, "select word from kept") == "kept"


def test_the_web_server_from_everywhere(net: Engine, lab: Lab) -> None:
    assert lab.fetch("client", f"http://{netlab.HOST}:18080/") == f"web {netlab.CLIENT}\n"
    assert lab.fetch("client", f"http://[{netlab.HOST6}]:18080/", "-g") == f"web {netlab.CLIENT6}\n"
    if lab.at("host", "cat", "/proc/sys/net/bridge/bridge-nf-call-ip6tables", check=False).stdout.strip() != "1":  # see docs/network-firewall.md
        assert lab.fetch("host", "http://[::1]:18080/", "-g").startswith("web ")
    assert net.docker("exec", "front", "wget", "-qO-", "http://web/").stdout.startswith("web ")
    assert lab.fetch("client", f"http://{netlab.HOST}:18081/", timeout_s=1) == ""


def test_nginx_resolves_by_itself(net: Engine, lab: Lab) -> None:
    """Its own resolver asks 127.0.0.11, and finds a container that has got another address."""
    assert lab.fetch("host", "http://127.0.0.1:18081/peer/").startswith("web ")
    old = netlab.settings(net, "web")["Networks"]["shop"]["IPAddress"]
    net.docker("restart", "-t", "0", "web")
    assert netlab.settings(net, "web")["Networks"]["shop"]["IPAddress"] != old
    wait_until(lambda: lab.fetch("host", "http://127.0.0.1:18081/peer/").startswith("web "), "the web server at its new address", 20)


def test_a_large_answer_is_whole(net: Engine, lab: Lab) -> None:
    size = 8 << 20
    text = psql(lab, "client", netlab.HOST, f"select repeat('x', {size})")
    assert text == "x" * size
