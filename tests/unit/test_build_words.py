"""Builds: what a client says of limits, what a quiet build says, archives that end early."""

import io
import tarfile

import pytest

from berth import errors
from berth.api.buildstream import BuildStream
from berth.build import progress
from berth.build.progress import Event
from berth.engine.builds import limits
from berth.store.compression import ExactReader
from berth.store.tar import read_entries, skip_padding


def test_limits_become_fields_of_a_host_config():
    found = limits.host_config([("Memory", "1024"), ("MemorySwap", "-1"), ("CpusetCpus", "0"), ("Ulimits", '[{"Name": "core", "Soft": 0, "Hard": 0}]')])
    assert found == {"Memory": 1024, "MemorySwap": -1, "CpusetCpus": "0", "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}]}


@pytest.mark.parametrize(
    ("name", "text"), [("Privileged", "1"), ("Binds", "/:/host"), ("Memory", "lots"), ("Memory", "1_0"), ("Memory", "٣"), ("Memory", ""), ("Ulimits", "{}"), ("Ulimits", "[1]"), ("Ulimits", "[" * 100_000)]
)
def test_what_is_no_limit_is_refused(name, text):
    with pytest.raises(errors.InvalidParameter) as caught:
        limits.host_config([(name, text)])
    assert len(str(caught.value)) < 400


def _told(stream: BuildStream) -> list[dict]:
    found = []
    for event in (Event(progress.PLANNED, 1, instruction="RUN x"), Event(progress.STARTED, 1), Event(progress.LOG, 1, text="said\n")):
        found += stream.messages(event)
    return found


def test_a_quiet_build_says_its_steps_only_when_it_fails():
    well = BuildStream(quiet=True)
    assert _told(well) == []
    assert list(well.success("sha256:" + "a" * 64, ["t:1"])) == [{"stream": "sha256:" + "a" * 64 + "\n"}]
    failed = BuildStream(quiet=True)
    assert _told(failed) == []
    *before, last = failed.failure(errors.InvalidParameter("no"))
    assert {"stream": "said\n"} in before
    assert last["error"] == "no"


@pytest.mark.parametrize(("cut", "fits"), [(0, True), (1024, True), (1024 + 465, True), (1024 + 466, False), (1024 + 100, False), (512, True), (100, True), (600, False)])
def test_an_archive_may_end_where_its_last_file_does(cut, fits):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("f")
        info.size = 47
        tar.addfile(info, io.BytesIO(b"x" * 47))
    data = out.getvalue()[: 512 + 512 + 1024]
    reader = ExactReader(io.BytesIO(data[: len(data) - cut]), open_end=True)

    def read() -> list[tuple[str, bytes]]:
        found = []
        for entry in read_entries(reader):
            found.append((entry.name, reader.read_exactly(entry.size_bytes)))
            skip_padding(reader, entry.size_bytes)
        return found

    if fits:
        assert read() == [("f", b"x" * 47)]
    else:
        with pytest.raises(errors.DataLoss):
            read()


def test_a_layer_must_end_as_an_archive_does():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("f"))
    with pytest.raises(errors.DataLoss):
        list(read_entries(ExactReader(io.BytesIO(out.getvalue()[:512]))))
