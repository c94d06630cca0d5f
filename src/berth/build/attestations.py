"""What is said of an image beside it: in-toto statements, in a manifest of their own. Pure.

Source: https://github.com/in-toto/attestation/blob/main/spec/v0.1/statement.md, as BuildKit writes it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from berth.build.imagedocuments import IN_TOTO, Document
from berth.build.provenance import image_uri
from berth.errors import InvalidParameter

STATEMENT = "https://in-toto.io/Statement/v0.1"
SPDX = "https://spdx.dev/Document"
PROVENANCE, SBOM = "provenance", "sbom"
_FILES = {SPDX: "sbom.spdx.json"}


@dataclass(frozen=True, slots=True)
class Claim:
    """kind: the predicate's type."""

    kind: str
    predicate: Mapping[str, Any]

    @property
    def file(self) -> str:
        """Its name beside the files of a result."""
        return _FILES.get(self.kind, "provenance.json")

    def about(self, names: Sequence[str], platform: str, digest: str) -> Document:
        """The statement about an image that is called so."""
        algorithm, _, value = digest.partition(":")
        subjects = [{"name": image_uri(name, platform) if name else "_", "digest": {algorithm: value}} for name in names or [""]]
        statement = {"_type": STATEMENT, "predicateType": self.kind, "subject": subjects, "predicate": self.predicate}
        return Document(IN_TOTO, json.dumps(statement, indent=2, ensure_ascii=False).encode(errors="surrogateescape"))


def wanted(given: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Those of a request that are not switched off. InvalidParameter for a kind that is not known."""
    for kind in given:
        if kind not in (PROVENANCE, SBOM):
            raise InvalidParameter(f"attestation type {kind!r} is not known: there are provenance and sbom")
    return {kind: dict(fields) for kind, fields in given.items() if fields.get("disabled", "false") not in ("true", "1")}
