"""The file of rights: what its lines give, and what is said of lines that are none."""

import os
from pathlib import Path

import pytest

from berth.errors import InvalidParameter
from berth.registry.server.rights import Rights, parse

FILE = """
# The team's
@web = alice, bob
*          public/**              pull
@users     team/*,  shared        pull   # whoever is logged in
@web, eve  team/web , team/web/** push
carol      **                     push, delete
dave       docs                   all
"""


@pytest.mark.parametrize(
    ("user", "name", "may"),
    [
        ("", "public/a", "pull"), ("", "public/a/b", "pull"), ("", "public", ""), ("", "team/web", ""), ("zoe", "team/web", "pull"),
        ("zoe", "team/web/x", ""), ("zoe", "shared", "pull"), ("alice", "team/web", "pull push"), ("bob", "team/web/x/y", "pull push"),
        ("eve", "team/web/x", "pull push"), ("eve", "team/other", "pull"), ("carol", "any/thing", "pull push delete"), ("dave", "docs", "pull push delete"),
        ("dave", "docs2", ""), ("*", "team/web", "pull"), ("@users", "shared", "pull"), ("@web", "team/web/x", ""),
    ],
)  # fmt: skip
def test_lines_add_up(tmp_path: Path, user: str, name: str, may: str) -> None:
    (tmp_path / "rights").write_text(FILE)
    rights = Rights(str(tmp_path / "rights"))
    assert [action for action in ("pull", "push", "delete") if rights.may(user, name, action)] == may.split()
    assert rights.any_for("")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("alice team/web", "2 columns, not 3"), ("alice team web pull", "4 columns, not 3"), ("alice team pul", "'pul' is no right: there are pull, push"),
        ("@nobody team pull", "'@nobody' is no group above this line"), ("alice Team pull", "'Team' is no repository's name"),
        ("alice team/.. /x", "'/x' is no right"), ("alice ***/x pull", "is no repository's name"), ("@users = a", "cannot be the name of a group"),
        ("@we b = a", "cannot be the name of a group"),
    ],
)  # fmt: skip
def test_lines_that_are_none(line: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match="--rights f, line 2: ") as raised:
        parse(f"* ** pull\n{line}\n", "f")
    assert words in str(raised.value)


def test_the_file_is_read_again_and_one_that_is_broken_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rights"
    with pytest.raises(InvalidParameter, match="No such file"):
        Rights(str(path))
    path.write_text("alice a pull\n")
    rights = Rights(str(path))
    assert (rights.may("alice", "a", "pull"), rights.may("alice", "a", "push"), rights.any_for(""), rights.any_for("bob")) == (True, False, False, False)
    path.write_text("alice a push\n")
    os.utime(path, ns=(1, 1))
    assert rights.may("alice", "a", "push")
    path.write_text("alice a everything\n")
    os.utime(path, ns=(2, 2))
    assert rights.may("alice", "a", "push")
    path.unlink()
    assert rights.may("alice", "a", "push")
    path.write_text("bob a push\n")
    assert not rights.may("alice", "a", "pull")
