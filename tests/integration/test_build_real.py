"""Builds of what people build: Debian packages, a C program, applications of Python and Node, a database. Steps reach the registries
by a proxy on another host of a lab network, which counts what they ask for."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildparts import CERTIFICATES, Proxy, apt_options, berth_build, debian_base, docker_build, node_parts
from harness import Engine, wait_until
from netlab import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

APT = (
    "RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked"
    " --mount=type=bind,source=apt.conf,target=/etc/apt/apt.conf.d/90machine apt-get -q update && DEBIAN_FRONTEND=noninteractive"
    " apt-get -qy install --no-install-recommends"
)


@pytest.fixture(scope="module")
def proxy(lab: Lab) -> Iterator[Proxy]:
    running = Proxy(lab)
    yield running
    running.close()


@pytest.fixture(scope="module")
def net(lab: Lab) -> Iterator[Engine]:
    """An engine with a bridge and the image `debian`."""
    running = Engine((), lab.enter("host"), bridge=True)
    running.docker("import", debian_base(), "debian")
    yield running
    running.finish()


class Builder:
    """Builds on one engine whose steps are given the proxy."""

    def __init__(self, engine: Engine, proxy: Proxy, where: Path) -> None:
        self.engine, self.where = engine, where
        self._options = [word for name, value in proxy.variables().items() for word in ("--build-arg", f"{name}={value}")]

    def __call__(self, dockerfile: str, *options: str, files: dict[str, str] | None = None) -> str:
        """By `docker build` -> what it printed."""
        done = docker_build(self.engine, self.where, dockerfile, *self._options, *options, files={"apt.conf": apt_options(), **(files or {})})
        return done.stdout

    def by_berth(self, dockerfile: str, *options: str, files: dict[str, str]) -> str:
        """The same by `berth build`."""
        for name, text in {"Dockerfile": dockerfile, "apt.conf": apt_options(), **files}.items():
            (self.where / name).write_text(text)
        return berth_build(self.engine, self.where, *self._options, *options)


@pytest.fixture
def build(net: Engine, proxy: Proxy, tmp_path: Path) -> Builder:
    return Builder(net, proxy, tmp_path)


def test_debian_packages_by_apt(net: Engine, build: Builder, proxy: Proxy) -> None:
    with proxy.counting() as asked:
        said = build(f"FROM debian\n{APT} tree\nRUN tree --version\n", "-t", "with-tree")
    assert re.search(r"^tree v\d", said, re.M), said
    assert [url for url in asked if "/tree_" in url]
    assert net.docker("run", "--rm", "with-tree", "dpkg-query", "-W", "-f", "${Status}", "tree").stdout == "install ok installed"
    # what was mounted is not in the image, neither are the proxy and its address
    left = net.docker("run", "--rm", "with-tree", "sh", "-c", "ls -A /var/cache/apt /var/lib/apt/lists; ls /etc/apt/apt.conf.d; env").stdout
    assert "90machine" not in left
    assert "tree" not in left
    assert "Packages" not in left
    about = net.docker("image", "inspect", "with-tree").stdout + net.docker("history", "--no-trunc", "with-tree").stdout
    assert proxy.url not in left + about
    with proxy.counting() as asked:
        build(f"FROM debian\n{APT} tree\nRUN tree --version\n", "--no-cache")
    assert asked
    assert not [url for url in asked if "/tree_" in url], asked  # the package comes from the cache mount


C_PROGRAM = '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%s from C, uid %d\\n", WORD, (int)getuid()); return 3; }\n'
C_DOCKERFILE = f"""FROM debian AS compiler
{APT} gcc libc6-dev make
WORKDIR /src
COPY Makefile *.c ./
ARG WORD=hello
RUN make WORD="$WORD"
FROM scratch
COPY --from=compiler --chmod=755 /src/program /program
USER 1234
ENTRYPOINT ["/program"]
"""


def test_c_program_compiled_in_one_stage_and_copied_into_another(net: Engine, build: Builder) -> None:
    files = {"main.c": C_PROGRAM, "Makefile": "program: main.c\n\tgcc -static -O1 -DWORD='\"$(WORD)\"' -o $@ $<\n"}
    build(C_DOCKERFILE, "-t", "c-program", files=files)
    done = net.docker("run", "--rm", "c-program", code=3)
    assert done.stdout == "hello from C, uid 1234\n"
    (layer,) = json.loads(net.docker("image", "inspect", "c-program").stdout)[0]["RootFS"]["Layers"]
    assert layer.startswith("sha256:")
    names = net.docker("create", "--name", "c-files", "c-program").stdout.strip()
    try:
        listed = subprocess.run(["tar", "tv"], input=_exported(net, names), capture_output=True, check=True).stdout.decode()
    finally:
        net.rm(names)
    (row,) = [line for line in listed.splitlines() if line.split()[-1] == "program"]
    assert row.startswith("-rwxr-xr-x 0/0 ")
    assert "src" not in listed
    said = build(C_DOCKERFILE, "-t", "c-program", "--build-arg", "WORD=other", files={**files, "main.c": C_PROGRAM.replace("return 3", "return 4")})
    assert said.count("Using cache") == 2  # the compiler and the directory
    assert net.docker("run", "--rm", "c-program", code=4).stdout == "other from C, uid 1234\n"
    failed = docker_build(net, build.where, C_DOCKERFILE, files={"main.c": "int main(void) { return nothing; }\n"}, code=2)
    assert "‘nothing’ undeclared" in failed.stdout + failed.stderr or "'nothing' undeclared" in failed.stdout + failed.stderr


def _exported(engine: Engine, identity: str) -> bytes:
    return subprocess.run(["docker", "export", identity], env=engine.env, capture_output=True, check=True, timeout=60).stdout


PYTHON_DOCKERFILE = f"""FROM debian
{APT} python3-pip ca-certificates
WORKDIR /app
ARG PIP_INDEX_URL
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=certificates.crt,target=/run/certificates.crt \\
    PIP_CERT=/run/certificates.crt PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_BINARY=jinja2,markupsafe \\
    PIP_USE_PEP517=1 PIP_USE_FEATURE=no-binary-enable-wheel-cache pip install --no-build-isolation -r requirements.txt .
CMD ["greet", "build"]
"""
PYPROJECT = (
    '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[project]\nname = "greeting"\nversion = "1.0"\n'
    'dependencies = ["jinja2"]\n[project.scripts]\ngreet = "greeting:main"\n[tool.setuptools]\npy-modules = ["greeting"]\n'
)
GREETING = 'import sys\nfrom jinja2 import Template\ndef main():\n    print(Template("WORD {{ name }}!").render(name=sys.argv[1]))\n'


def test_python_application_by_pip_with_a_cache_mount(net: Engine, build: Builder, proxy: Proxy) -> None:
    """Source packages, whose wheels pip makes and keeps: whether it keeps what it fetches is up to the registry's headers."""
    files = {
        "certificates.crt": Path(CERTIFICATES).read_text(), "pyproject.toml": PYPROJECT, "requirements.txt": "jinja2==3.1.2\nmarkupsafe==2.1.1\n", "greeting.py": GREETING.replace("WORD", "Hello"),
        ".dockerignore": "Dockerfile\n",
    }  # fmt: skip
    index = subprocess.run([_python(), "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True).stdout.strip()
    options = ("-t", "greeting", *(("--build-arg", f"PIP_INDEX_URL={index}") if index else ()))
    with proxy.counting():
        said = build(PYTHON_DOCKERFILE, *options, files=files)
    first_bytes = proxy.received_bytes
    assert "Downloading" in said
    assert net.docker("run", "--rm", "greeting").stdout == "Hello build!\n"
    with proxy.counting():
        said = build(PYTHON_DOCKERFILE, *options, files={**files, "greeting.py": GREETING.replace("WORD", "Good morning")})
    assert net.docker("run", "--rm", "greeting").stdout == "Good morning build!\n"
    assert "Downloading" not in said
    assert re.search(r"Using cached jinja2", said, re.I), said
    assert proxy.received_bytes < first_bytes
    assert net.docker("run", "--rm", "greeting", "ls", "-A", "/root", "/run").stdout.count("certificates.crt") == 0
    assert ".cache" not in net.docker("run", "--rm", "greeting", "ls", "-A", "/root").stdout


def _python() -> str:
    return shutil.which("python3") or "python3"


NODE_DOCKERFILE = """FROM debian
COPY --from=node-parts /usr /usr
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/bin/npm
WORKDIR /app
COPY package.json .
ARG REGISTRY
RUN --mount=type=cache,target=/npm,id=npm --mount=type=bind,source=certificates.crt,target=/run/certificates.crt \\
    NODE_EXTRA_CA_CERTS=/run/certificates.crt npm install --no-audit --no-fund --no-update-notifier --prefer-offline --cache /npm --registry "$REGISTRY"
COPY index.js .
USER 1000
CMD ["node", "index.js"]
"""


def test_node_application_by_npm(net: Engine, build: Builder, proxy: Proxy, tmp_path: Path) -> None:
    node_parts(str(tmp_path / "node.tar"))
    net.docker("import", str(tmp_path / "node.tar"), "node-parts")
    os.unlink(tmp_path / "node.tar")
    registry = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True, check=True).stdout.strip()
    package = {"name": "app", "version": "1.0.0", "private": True, "dependencies": {"is-odd": "^3.0.1"}}
    files = {
        "certificates.crt": Path(CERTIFICATES).read_text(), "package.json": json.dumps(package),
        "index.js": "console.log([1, 2, 3].map(require('is-odd')).join(), process.getuid())\n",
    }  # fmt: skip
    options = ("-t", "node-app", "--build-arg", f"REGISTRY={registry}")
    said = build(NODE_DOCKERFILE, *options, files=files)
    assert re.search(r"added \d packages", said), said
    assert net.docker("run", "--rm", "node-app").stdout == "true,false,true 1000\n"
    with proxy.counting() as asked:
        said = build(NODE_DOCKERFILE, *options, files={**files, "package.json": json.dumps({**package, "version": "1.0.1"})})
    assert re.search(r"added \d packages", said), said
    assert asked == []  # all of it is in the cache mount
    assert net.docker("run", "--rm", "node-app").stdout == "true,false,true 1000\n"
    said = build(NODE_DOCKERFILE, *options, files={**files, "package.json": json.dumps({**package, "version": "1.0.1"}), "index.js": "console.log('new')\n"})
    assert "added" not in said  # the step is in the cache
    assert net.docker("run", "--rm", "node-app").stdout == "new\n"


DATABASE_DOCKERFILE = f"""FROM debian
RUN mkdir -p /etc/postgresql-common && echo create_main_cluster=false >/etc/postgresql-common/createcluster.conf
{APT} postgresql
ENV PGDATA=/srv/database
RUN ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ && install -d -o postgres -g postgres -m 700 $PGDATA
USER postgres
COPY --chown=postgres schema.sql /tmp/
RUN <<EOF
set -e
initdb -A trust -E UTF8 --locale=C
echo "host all all all trust" >>$PGDATA/pg_hba.conf
pg_ctl -w start -o "-c fsync=off"
psql -v ON_ERROR_STOP=1 -f /tmp/schema.sql
pg_ctl -w stop -m fast
EOF
CMD ["postgres", "-c", "listen_addresses=*"]
"""


def test_database_that_is_initialised_in_a_build(net: Engine, build: Builder) -> None:
    schema = "create table planets (name text primary key, moons int);\ninsert into planets values ('Earth', 1), ('Mars', 2);\nselect sum(moons) from planets;\n"
    said = build.by_berth(DATABASE_DOCKERFILE, "-t", "planets", files={"schema.sql": schema})
    assert "server stopped" in said
    assert not [line for line in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines() if "/srv/database" in line]
    net.docker("network", "create", "stars")
    try:
        net.docker("run", "-d", "--name", "db", "--network", "stars", "planets")
        ready = ("run", "--rm", "--network", "stars", "planets", "pg_isready", "-h", "db")
        wait_until(lambda: net.docker(*ready, code=None).returncode == 0, "a database that is not ready")
        asked = net.docker("run", "--rm", "--network", "stars", "planets", "psql", "-h", "db", "-At", "-c", "select name, moons from planets order by 1").stdout
        assert asked == "Earth|1\nMars|2\n"
        assert net.docker("exec", "db", "psql", "-At", "-c", "insert into planets values ('Jupiter', 97); select count(*) from planets").stdout == "INSERT 0 1\n3\n"
        owner = net.docker("exec", "-u", "0", "db", "sh", "-c", "stat -c '%U %a' $PGDATA; find $PGDATA ! -user postgres").stdout
        assert owner == "postgres 700\n"
    finally:
        net.docker("rm", "-f", "db")
        net.docker("network", "rm", "stars")


@pytest.fixture
def remapped(lab: Lab, tmp_path: Path) -> Iterator[Engine]:
    """One with user namespaces."""
    ids = tmp_path / "ids"
    ids.write_text("remapped:200000:65536\n")
    script = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'
    running = Engine(("--userns-remap", "remapped"), (*lab.enter("host"), "unshare", "-m", "--propagation", "slave", "sh", "-c", script, str(ids)), bridge=True)
    running.docker("import", debian_base(), "debian")
    yield running
    running.finish()


def test_debian_packages_in_a_user_namespace(remapped: Engine, proxy: Proxy, tmp_path: Path) -> None:
    """apt gives up root for fetching, packages make groups and programs of theirs: all below the engine's own ids."""
    build = Builder(remapped, proxy, tmp_path / "context")
    said = build(f"FROM debian\n{APT} cron\nRUN cat /proc/self/uid_map && id -u && useradd -m -u 1234 new && touch /by-root\n", "-t", "with-cron")
    assert re.search(r"^ +0 +200000 +65536\n0$", said, re.M), said
    seen = remapped.docker("run", "--rm", "with-cron", "stat", "-c", "%n %U:%G %a", "/usr/bin/crontab", "/var/spool/cron/crontabs", "/by-root").stdout
    assert seen == "/usr/bin/crontab root:crontab 2755\n/var/spool/cron/crontabs root:crontab 1730\n/by-root root:root 644\n"
    assert remapped.docker("run", "--rm", "-u", "new", "with-cron", "sh", "-c", "touch ~/f && stat -c %u:%U ~/f").stdout == "1234:new\n"
    kept = list(Path(f"{remapped.data}/build/mounts").rglob("cron_*.deb"))
    assert [path.stat().st_uid for path in kept] == [0]  # on disk: of use for an engine without user namespaces
