"""An image of this machine's own PostgreSQL and nginx (Debian's packages) with their libraries, and busybox: real servers without a registry."""

import glob
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from harness import BUSYBOX

_POSTGRES = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1:]
HAVE_PARTS = bool(_POSTGRES and shutil.which("nginx") and shutil.which("psql"))
_PROGRAMS = ("postgres", "initdb", "pg_isready", "psql")
_MODULES = ("plpgsql.so", "dict_snowball.so")
_APPLETS = ("sh", "sleep", "cat", "echo", "mkdir", "true", "ip", "wget", "chmod", "hostname", "nslookup", "env", "id", "touch", "ls")

# One web server that says who it is, and passes /db/ and /peer/ on to names of its network.
NGINX = """
daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
events { worker_connections 128; }
http {
  access_log off; client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  resolver 127.0.0.11;
  server {
    listen 80; listen [::]:80;
    location / { return 200 "$hostname $remote_addr\\n"; }
    location /peer/ { set $peer http://web:80/; proxy_pass $peer; }
  }
}
"""
POSTGRES = (
    "set -e; mkdir -p $PGDATA; [ -e $PGDATA/PG_VERSION ] || initdb -A trust -U postgres -E UTF8 --locale=C >/dev/null;"
    " echo 'host all all all trust' > $PGDATA/pg_hba.conf;"
    " exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off -c shared_buffers=16MB"
)


def debian_file(package: str, path: str, architecture: str = "") -> Path:
    """A file of a Debian package, of another architecture too; fetched once on a machine and kept.

    apt works in directories of its own: what this machine has installed, and what it knows of architectures, stays as it is.
    """
    kept = Path(tempfile.gettempdir()) / f"berth-test-{os.path.basename(path)}-{architecture or 'host'}-{os.getuid()}"
    if kept.exists():
        if kept.lstat().st_uid != os.getuid():
            pytest.skip(f"{kept} belongs to somebody else")
        return kept
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip(f"needs apt-get and dpkg-deb for Debian's package {package}")
    with tempfile.TemporaryDirectory(prefix="berth-test-apt-", dir="/var/tmp") as work:
        for directory in ("state/lists/partial", "cache/archives/partial"):
            os.makedirs(f"{work}/{directory}")
        Path(f"{work}/status").touch()
        options = {"Dir::State": f"{work}/state", "Dir::State::status": f"{work}/status", "Dir::Cache": f"{work}/cache", "APT::Sandbox::User": "root"}
        options |= {"Acquire::Languages": "none"} | ({"APT::Architecture": architecture, "APT::Architectures": architecture} if architecture else {})
        apt = ["apt-get", "-q", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
        for command in ([*apt, "update"], [*apt, "download", package]):
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                pytest.skip(f"apt cannot fetch {package}: {done.stderr.strip()[-300:]}")
        [archive] = Path(work).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(archive), f"{work}/files"], check=True)
        shutil.copy(f"{work}/files/{path}", f"{kept}.{os.getpid()}")
        os.rename(f"{kept}.{os.getpid()}", kept)
    return kept


def make_image(path: str) -> None:
    """An archive for `docker import`; user 70 is postgres."""
    [binaries] = _POSTGRES
    version = binaries.split("/")[-2]
    programs = [os.path.join(binaries, name) for name in _PROGRAMS] + [str(shutil.which("nginx"))]
    modules = [f"/usr/lib/postgresql/{version}/lib/{name}" for name in _MODULES]
    with tarfile.open(path, "w", dereference=True) as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for applet in _APPLETS:
            _link(tar, f"bin/{applet}", "busybox")
        for file in sorted({*programs, *modules, *(library for program in (*programs, *modules) for library in _libraries(program))}):
            tar.add(file, file.lstrip("/"))
        for program in _PROGRAMS:
            _link(tar, f"usr/bin/{program}", f"../lib/postgresql/{version}/bin/{program}")
        tar.add(f"/usr/share/postgresql/{version}", f"usr/share/postgresql/{version}", filter=_small)
        passwd = "root:x:0:0::/:/bin/sh\npostgres:x:70:70::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
        for name, text in (("etc/nginx.conf", NGINX), ("etc/passwd", passwd), ("etc/group", "root:x:0:\npostgres:x:70:\nnogroup:x:65534:\n")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        for name in ("tmp", "data", "var/lib/nginx", "var/log/nginx", "usr/share/zoneinfo"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(info)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)


def _small(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "/man" in info.name or "/locale" in info.name else info


def _libraries(program: str) -> list[str]:
    """What the dynamic linker loads for it."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
    return [word for word in lines if word.startswith("/")]
