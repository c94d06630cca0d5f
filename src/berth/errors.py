"""The one tree of error kinds. Kinds know no transport: `api` maps them to HTTP, `cli` to exit codes.

    BerthError
    ├── NotFound           the thing named does not exist
    ├── InvalidParameter   the request or file is wrong: the message names the value
    │   ├── InvalidSpec    an OCI bundle is wrong: the message starts with the JSON path
    │   └── TooLarge       more than the engine takes
    ├── Conflict           right in itself, but not in this state (name taken, container running)
    ├── NotModified        nothing to do: already so
    ├── Unauthorized       whoever asks is not known, or may not
    ├── Forbidden          the kernel or a policy refuses
    ├── NotImplementedHere known to Docker, not to this version of berth or to this kernel
    ├── Unavailable        the engine, launcher, monitor or a registry cannot be reached
    ├── Cancelled          nobody wants the result any more
    ├── DataLoss           bytes do not match their digest, an archive is cut off or lies
    ├── StartFailed        the program in the container could not be started
    │   ├── CommandNotFound        exit code 127
    │   └── CommandNotExecutable   exit code 126
    └── SystemFailure      the kernel said no to something that should have worked

Message style: lower case, no full stop, with the offending value, and what to do where that helps.
"""


class BerthError(Exception):
    """Base of all errors that a person may see; `str(error)` is the whole message."""


class NotFound(BerthError):
    pass


class InvalidParameter(BerthError):
    pass


class InvalidSpec(InvalidParameter):
    pass


class TooLarge(InvalidParameter):
    pass


class Conflict(BerthError):
    pass


class NotModified(BerthError):
    pass


class Unauthorized(BerthError):
    pass


class Forbidden(BerthError):
    pass


class NotImplementedHere(BerthError):
    pass


class Unavailable(BerthError):
    pass


class Cancelled(BerthError):
    pass


class DataLoss(BerthError):
    pass


class StartFailed(BerthError):
    exit_code = 128


class CommandNotFound(StartFailed):
    exit_code = 127


class CommandNotExecutable(StartFailed):
    exit_code = 126


class SystemFailure(BerthError):
    pass


# A kind crosses process borders (init -> monitor -> engine) as its class name.
BY_NAME: dict[str, type[BerthError]] = {
    kind.__name__: kind
    for kind in (
        NotFound, InvalidParameter, InvalidSpec, TooLarge, Conflict, NotModified, Unauthorized, Forbidden, NotImplementedHere,
        Unavailable, Cancelled, DataLoss, StartFailed, CommandNotFound, CommandNotExecutable, SystemFailure,
    )
}  # fmt: skip


def from_wire(kind: str, message: str) -> BerthError:
    """Rebuilds an error that another process of berth reported by kind and message."""
    return BY_NAME.get(kind, SystemFailure)(message)


def to_wire(error: BaseException) -> dict[str, str]:
    """Kind and message of any exception, for `from_wire` in another process."""
    if isinstance(error, BerthError):
        return {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, OSError):
        return {"kind": "SystemFailure", "message": str(error)}
    return {"kind": "SystemFailure", "message": f"{type(error).__name__}: {error}"}
