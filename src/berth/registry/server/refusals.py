"""The error codes of the distribution specification, each with its HTTP status, and the JSON that carries them. Pure."""

from berth.errors import BerthError

STATUS = {
    "BLOB_UNKNOWN": 404, "BLOB_UPLOAD_INVALID": 400, "BLOB_UPLOAD_UNKNOWN": 404, "DIGEST_INVALID": 400, "MANIFEST_BLOB_UNKNOWN": 404,
    "MANIFEST_INVALID": 400, "MANIFEST_UNKNOWN": 404, "NAME_INVALID": 400, "NAME_UNKNOWN": 404, "SIZE_INVALID": 400,
    "UNAUTHORIZED": 401, "DENIED": 403, "UNSUPPORTED": 405, "TOOMANYREQUESTS": 429, "TAG_INVALID": 400,
    "PAGINATION_NUMBER_INVALID": 400, "RANGE_INVALID": 416, "UNAVAILABLE": 503, "UNKNOWN": 500,
}  # fmt: skip


class Refused(BerthError):
    """A request that is answered with an error. headers: what goes with it."""

    def __init__(self, code: str, message: str, *, status: int = 0, detail: object = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status or STATUS[code]
        self.detail = detail
        self.headers = headers or {}

    def body(self) -> dict:
        entry = {"code": self.code, "message": str(self)}
        return {"errors": [entry if self.detail is None else {**entry, "detail": self.detail}]}
