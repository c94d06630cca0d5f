"""Users and passwords of a file of Apache's htpasswd, hashed with bcrypt (`htpasswd -B`). Read anew when it changes."""

import hmac
import os
import secrets
from typing import Any

from berth.errors import InvalidParameter
from berth.registry.server.extras import need

_MOST_REMEMBERED = 1000
_PREFIXES = ("$2y$", "$2b$", "$2a$")
_NOBODY = "$2b$10$7EqJtq98hPqEX7fNZaFWoOHIvMSJ0/TnHwxU0mPYkX3Ab1qM7l9QK"


class Passwords:
    """Raises InvalidParameter for a file that cannot be used."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._bcrypt: Any = need("bcrypt", "registry", "--htpasswd")
        self._changed: tuple[int, int, int] = (0, 0, 0)
        self._hashes: dict[str, str] = {}
        # bcrypt is slow on purpose; what was right once is known by a keyed hash until the file changes.
        self._key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}
        self._read()

    def known(self, user: str, password: str) -> bool:
        """Whether this was right before; quick."""
        self._read()
        return hmac.compare_digest(self._right.get(user, b""), self._keyed(user, password))

    def _keyed(self, user: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{self._hashes.get(user, _NOBODY)}\0{password}".encode(), "sha256")

    def check(self, user: str, password: str) -> bool:
        """Blocks for as long as bcrypt takes, for a user that is not there too."""
        self._read()
        stored, given = self._hashes.get(user, _NOBODY), self._keyed(user, password)
        # bcrypt looks at 72 bytes and newer versions of the library refuse more.
        good = bool(self._bcrypt.checkpw(password.encode()[:72], stored.encode())) and user in self._hashes
        if good:
            if len(self._right) >= _MOST_REMEMBERED:
                self._right.clear()
            self._right[user] = given
        return good

    def _read(self) -> None:
        try:
            found = os.stat(self._path)
            changed = (found.st_mtime_ns, found.st_ino, found.st_size)
            if changed == self._changed:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError as error:
            if self._changed != (0, 0, 0):
                return  # being replaced: the old one holds
            raise InvalidParameter(f"--htpasswd {self._path}: {error.strerror}") from None
        self._hashes = parse(text, self._path)
        self._changed = changed
        self._right.clear()


def parse(text: str, path: str) -> dict[str, str]:
    """user -> hash. InvalidParameter where a hash is not bcrypt's."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        user, colon, stored = line.partition(":")
        if not (colon and user and stored.startswith(_PREFIXES)):
            raise InvalidParameter(f"--htpasswd {path}, line {number}: not `user:$2y$...`; only bcrypt is taken: htpasswd -B {path} {user[:80] or 'USER'}")
        found[user] = stored
    return found


