"""Archives made by hand, member by member."""

import io
import os
import tarfile

ME = (os.geteuid(), os.getegid())


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.uid, info.gid = ME
    info.mtime = 1_000_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def archive(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as file:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            if data:
                info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
