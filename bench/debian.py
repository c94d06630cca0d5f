"""Debian images to measure with, made once by debootstrap, apt-get and a dockerd, and kept as archives.

Five layers, about 500 MB: a base, and four times packages on top of it. Ten related ones: the same base, one layer of
packages each, whose dependencies overlap as those of a team's images do. Packages come from where the host's apt has them.
"""

import shutil
import subprocess
from pathlib import Path

from run_latency import dockerd

_LAYERS = (
    "python3 ca-certificates curl",
    "gcc libc6-dev",
    "git openssh-client",
    "nginx postgresql-client python3-numpy fonts-dejavu",
)
RELATED = {
    "flask": "python3-flask gunicorn",
    "django": "python3-django gunicorn python3-psycopg2",
    "requests": "python3-requests python3-bs4",
    "numpy": "python3-numpy",
    "lxml": "python3-lxml python3-requests",
    "celery": "python3-celery python3-redis",
    "ansible": "ansible-core",
    "nginx": "nginx python3-certbot",
    "git": "git python3",
    "client": "postgresql-client python3-psycopg2",
}


def archives(cache: Path, work: Path) -> tuple[Path, Path]:
    """(the image `five`, the ten of `RELATED` together) as `docker save` writes them; made below `work` where the cache lacks them."""
    found = cache / "five.tar", cache / "related.tar"
    if not all(path.exists() for path in found):
        cache.mkdir(parents=True, exist_ok=True)
        work.mkdir()
        with dockerd(work) as environment:
            if not environment:
                raise SystemExit("dockerd is not installed: there is nothing to make the images with")
            _make(environment, work, *found)
        subprocess.run(["umount", str(work / "exec/netns/default")], check=False)  # which dockerd leaves
        shutil.rmtree(work)
    return found


def _make(environment: dict[str, str], work: Path, five: Path, related: Path) -> None:
    def docker(*words: str) -> None:
        subprocess.run(["docker", *words], env=environment, stdout=subprocess.DEVNULL, check=True)

    def layer(base: str, packages: str, name: str) -> None:
        """As `RUN apt-get …` in a Dockerfile makes one, for which Debian's own images clean the cache; the sources are the host's."""
        script = f"apt-get -q update && apt-get -qy install --no-install-recommends {packages} && apt-get clean && rm -rf /var/lib/apt/lists/*"
        docker("run", "--name", "making", "--network", "host", "-v", "/etc/apt:/etc/apt:ro", "-e", "DEBIAN_FRONTEND=noninteractive",
               base, "sh", "-c", script)  # fmt: skip
        docker("commit", "making", name)
        docker("rm", "making")

    root = work / "root"
    sources = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"],
                             capture_output=True, text=True, check=True).stdout.split("\n")  # fmt: skip
    mirror, suite = sources[0].split()
    subprocess.run(["debootstrap", "--variant=minbase", suite, str(root), mirror], stdout=subprocess.DEVNULL, check=True)
    subprocess.run(["sh", "-c", f"rm -rf {root}/var/cache/apt/archives/*.deb {root}/var/lib/apt/lists/*"], check=True)
    subprocess.run(["tar", "-C", str(root), "-cf", str(work / "root.tar"), "."], check=True)
    docker("import", str(work / "root.tar"), "base")
    below = "base"
    for number, packages in enumerate(_LAYERS):
        layer(below, packages, f"five:{number}")
        below = f"five:{number}"
    docker("tag", below, "five:latest")
    docker("save", "-o", str(five), "five:latest")
    for name, packages in RELATED.items():
        layer("base", packages, f"related:{name}")
    docker("save", "-o", str(related), *(f"related:{name}" for name in RELATED))
