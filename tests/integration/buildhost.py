"""An engine that runs builds by the engine's own interface and leaves: for what of builds no Docker client can ask for.

    python buildhost.py <<< '{"data": …, "exec": …, "images": {"bb": "rootfs.tar"}, "builds": [{…}, …]}'

A build: dockerfile, context (a directory), and fields of BuildRequest and Options; outputs have a `dest`, a file that gets what the
client is sent; cancel_on, kill_on: part of the label of a step with whose start the build is cancelled or the engine killed; at:
{"step": part of a label, "run": a command} runs one as that step starts. Answers with a JSON line for each: {"image", "metadata", "events"} or {"error", "events"}.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class HostClient:
    """Files of this machine."""

    def __init__(self, engine: Any, build: dict) -> None:
        self._engine = engine
        self._build = build

    async def dockerfile(self) -> tuple[bytes, str]:
        return self._build["dockerfile"].encode(), "Dockerfile"

    async def context(self, name: str, *rest: Any) -> Any:
        from berth import errors
        from berth.build.worker import Tree

        if name.startswith("cache:"):
            path = self._build["cache_from"][int(name.removeprefix("cache:"))]["src"]
        elif name:
            raise errors.NotFound(f"there is no build context {name!r}")
        else:
            path = self._build.get("context") or "/var/empty"
        return Tree(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path, "")

    def origin(self) -> None:
        return None

    async def secret(self, identity: str) -> bytes | None:
        value = self._build.get("secrets", {}).get(identity)
        return value.encode() if value else None

    async def ssh_socket(self, identity: str, uid: int, gid: int, mode: int) -> str | None:
        return None

    async def pull(self, name: Any, platform: str, tell: Callable[[str], None]) -> None:
        async for message in self._engine.distribution.pull(name, platform, await self.credentials(name.registry)):
            tell(message.get("status", ""))

    async def credentials(self, registry: str) -> Any:
        from berth.registry.client.challenge import Credentials

        return Credentials()

    async def output(self, number: int, write: Callable[[IO[bytes]], None]) -> None:
        places = [*self._build.get("outputs", []), *self._build.get("cache_to", [])]

        def run() -> None:
            with open(places[number]["dest"], "wb") as file:
                write(file)

        await asyncio.to_thread(run)

    def proxies(self) -> dict[str, str]:
        return {}


async def _main(spec: dict) -> None:
    from berth.engine.nets.settings import NetworkSettings
    from berth.engine.options import Options
    from berth.engine.service import Engine
    from berth.engine.tasks import Tasks
    from berth.oci import platforms

    options = Options(
        data_root=spec["data"], exec_root=spec["exec"], network=NetworkSettings(bridge="none"), insecure_registries=spec.get("insecure", [])
    )
    async with asyncio.TaskGroup() as group:
        engine = Engine(options, Tasks(group))
        try:
            await engine.bring_up()
            for name, value in spec.get("images", {}).items():
                path, _, platform = value.partition("|")
                with open(path, "rb") as file:
                    wanted = platforms.parse(platform) if platform else platforms.host()
                    await asyncio.to_thread(engine.images.import_filesystem, file, name, "", {}, wanted)
            for build in spec["builds"]:
                print(json.dumps(await _build(engine, build)), flush=True)
        finally:
            await engine.take_down()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()


async def _build(engine: Any, build: dict) -> dict:
    from berth import errors
    from berth.build.options import Options
    from berth.engine.builds.request import BuildRequest
    from berth.oci import platforms

    events: list[dict] = []
    options = Options(
        build_platform=str(platforms.host()), platforms=tuple(build.get("platforms", ())), epoch=build.get("epoch"), target=build.get("target", ""),
        build_args=build.get("build_args", {}), labels=build.get("labels", {}), no_cache=build.get("no_cache", False),
    )  # fmt: skip
    request = BuildRequest(
        options=options, tags=tuple(build.get("tags", ())), outputs=tuple(build.get("outputs", ())), squash=build.get("squash", False),
        cache_from=tuple(build.get("cache_from", ())), cache_to=tuple(build.get("cache_to", ())), attests=build.get("attests", {}),
        annotations=tuple(build.get("annotations", ())),
    )  # fmt: skip

    labels: dict[int, str] = {}

    def report(event: Any) -> None:
        events.append(event.as_json())
        label = labels.setdefault(event.vertex, event.label)
        if build.get("cancel_on") and event.kind == "started" and build["cancel_on"] in label:
            engine.builds.cancel("mine")
        if build.get("kill_on") and event.kind == "started" and build["kill_on"] in label:
            os.kill(os.getpid(), signal.SIGKILL)
        if event.kind == "started" and (at := build.get("at")) and at["step"] in label:
            subprocess.run(at["run"], check=True)

    try:
        built = await engine.builds.build(request, HostClient(engine, build), report, "mine")
    except errors.BerthError as error:
        return {"error": str(error), "events": events}
    return {"image": built.image, "metadata": dict(built.metadata), "events": events}


class BuildHost:
    """Roots of its own below a temporary directory; each `run` is an engine that comes up and leaves."""

    def __init__(self, top: str, images: dict[str, str], insecure: list[str] | None = None, wrapper: tuple[str, ...] = ()) -> None:
        self.top = top
        self.data, self.exec = f"{top}/data", f"{top}/exec"
        self.images = images
        self.insecure = insecure or []
        self.wrapper = wrapper

    def run(self, *builds: dict, code: int = 0) -> list[dict]:
        spec = {"data": self.data, "exec": self.exec, "images": self.images, "builds": builds, "insecure": self.insecure}
        done = subprocess.run(
            [*self.wrapper, sys.executable, os.path.abspath(__file__)], input=json.dumps(spec), capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src", "BERTH_TEST": self.top}, cwd=self.top,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        self.images = {}
        return [json.loads(line) for line in done.stdout.splitlines()]

    def build(self, dockerfile: str, **fields: Any) -> dict:
        """One that succeeds."""
        (found,) = self.run({"dockerfile": dockerfile, **fields})
        assert "error" not in found, found["error"]
        return found

    def left(self) -> list[str]:
        """What builds have left where nothing stays."""
        places = (f"{self.data}/build/work", f"{self.exec}/build", f"{self.data}/tmp")
        return [f"{place}/{name}" for place in places if os.path.isdir(place) for name in os.listdir(place)]


@contextlib.contextmanager
def build_host(images: dict[str, str], insecure: list[str] | None = None, wrapper: tuple[str, ...] = ()) -> Iterator[BuildHost]:
    """One whose builds leave nothing but cache and images."""
    with tempfile.TemporaryDirectory(prefix="berth-test-", dir="/var/tmp") as top:
        host = BuildHost(top, images, insecure, wrapper)
        yield host
        assert host.left() == []


def kinds(found: dict, kind: str) -> list[dict]:
    """Events of a kind, each with its vertex's label."""
    labels = {event["vertex"]: event.get("label", "") for event in found["events"] if event["kind"] == "planned"}
    return [{**event, "label": labels.get(event.get("vertex", 0), "")} for event in found["events"] if event["kind"] == kind]


if __name__ == "__main__":
    asyncio.run(_main(json.load(sys.stdin)))
