"""Words of Dockerfiles: quotes, escapes, substitutions, beside bash; patterns beside Python's re; mounts, ports, sizes."""

import re
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.build.dockerfile import mounts, patterns, ports, words
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.instructions import Mount
from berth.build.dockerfile.splitting import SplitError
from berth.build.dockerfile.suggesting import nearest

VARIABLES = {"s": "set", "e": "", "f": "/a/b.tar.gz", "v": "1.2.3", "w": "größe*x"}
# What bash reads in the same way: BuildKit knows no more of a shell than this.
AS_BASH = [
    "hello", "he'll'o", r"he\'llo", r"abc\tdef", r'"abc\tdef"', r"'abc\tdef'", "\"hel'lo\"", "$s", "${s}", "x${s}y", "$s$s", '"$s"', "'$s'",
    r"\$s", r'"\$s"', r"\\$s", "${u}", "${s:-d}", "${e:-d}", "${u:-d}", "${s-d}", "${e-d}", "${u-d}", "${s:+d}", "${e:+d}", "${u:+d}",
    "${s+d}", "${e+d}", "${u+d}", "${u:-${e:-$v}}", "${u:-a$v}", '"${u:-$v}"', "${f#*/}", "${f##*/}", "${f%.*}", "${f%%.*}", "${f#?}",
    "${f%?}", "${f#nope}", "${f#*b}", "${f%%a*}", "${v/./-}", "${v//./-}", "${v/2*/}", "${v//[0]/}", "${w/größe/g}", "${w%?x}",
    r"${w/\*/+}", r"${f//\//_}", "${s?}", "${s:?no}", "pre-${s}.${v}-post",
]  # fmt: skip


@pytest.mark.parametrize("word", AS_BASH)
def test_as_bash(word: str) -> None:
    found = subprocess.run(
        ["bash", "-c", f"printf %s {word}" if word[0] in "\"'" else f'printf %s "$(printf %s {word})"'],
        env={**VARIABLES, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert words.expand(word, VARIABLES).text == found.stdout


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$", "$"), ("$.", "$."), ("x$", "x$"), ("$1x", "x"), ("$$", ""), ("a\\", "a"), ("a\\\\", "a\\"), ("${aaa}}", "}"), ("", ""),
        ("${u:-b {c}", "b {c"), (r"${u:-\$s:}", "$s:"), (r"${u:-\${s}z}", "${sz}"), ("${v:#1.}", "2.3"), ("${v#}", "1.2.3"),
        ("${v//x/y}", "1.2.3"), ("${u/a/b}", ""), ("${v/1/$s}", "set.2.3"), ("$größe", ""),
    ],
)  # fmt: skip
def test_not_as_bash(word: str, expected: str) -> None:
    assert words.expand(word, VARIABLES).text == expected


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("'a", "matching single-quote"), ('"a', "matching double-quote"), ('"a\\"', "matching double-quote"), ("${", "missing '}'"),
        ("${s", "missing '}'"), ("${s:", "unsupported modifier (:)"), ("${s:-a", "missing '}'"), ("${}", "bad substitution"),
        ("${{s}", "bad substitution"), ("${:-a}", "bad substitution"), ("${.}", "unsupported modifier (.)"), ("${s:=a}", "unsupported modifier (:=)"),
        ("${s^}", "unsupported modifier (^)"), ("${s/a}", "missing '/' in ${}"), ("${s/a/b", "missing '}'"), ("${s#\\a}", "invalid escape '\\a'"),
        ("${u?}", "u: is not allowed to be unset"), ("${e:?}", "e: is not allowed to be empty"), ("${u:?give ${v}}", "u: give 1.2.3"),
        ("${u:-" * 60 + "}" * 60, "nested deeper than 50"),
    ],
)  # fmt: skip
def test_wrong_words(word: str, reason: str) -> None:
    with pytest.raises(DockerfileError, match=re.escape(reason)):
        words.expand(word, VARIABLES)


def test_names_used_and_undefined() -> None:
    found = words.expand("$s ${u:-$e} '$x' ${y+1}", VARIABLES)
    assert (found.used, found.undefined) == ({"s", "e"}, {"u", "y"})


def test_other_escape() -> None:
    assert words.expand("`$s\\$s `\"", VARIABLES, "`").text == '$s\\set "'


def test_no_quotes_in_heredocs() -> None:
    assert words.expand("it's \"$s\" \\$s", VARIABLES, quotes=False).text == "it's \"set\" $s"


def test_split_expand() -> None:
    assert words.split_expand("80 $p \"a b\"x $q", {"p": " 81  82 ", "q": ""}) == ["80", "81", "82", "a bx"]


def test_values_are_bounded() -> None:
    value = "x" * 1000
    with pytest.raises(DockerfileError, match="longer than 1048576"):
        words.expand("$a" * 2000, {"a": value})


def expression(pattern: str, *, lazy: bool = False) -> str:
    """BuildKit's own way: a regular expression."""
    made = {"*": ".*?" if lazy else ".*", "?": "."}
    return "".join(made[letter] if letter in made else re.escape(letter) for letter in pattern)


small = st.text("ab*?\n", max_size=8)
values = st.text("ab\n", max_size=10)


@given(small, values)
def test_prefixes_as_re(pattern: str, text: str) -> None:
    for longest in (False, True):
        match = re.match(expression(pattern, lazy=not longest), text)
        expected = text[match.end() :] if match else text
        assert patterns.without_prefix(pattern, text, longest=longest) == expected


@given(small, values)
def test_suffixes_as_re(pattern: str, text: str) -> None:
    for longest in (False, True):
        match = re.match(expression(pattern[::-1], lazy=not longest), text[::-1])
        expected = text[: len(text) - match.end()] if match else text
        assert patterns.without_suffix(pattern, text, longest=longest) == expected


@given(small, values)
def test_replacement_as_re(pattern: str, text: str) -> None:
    assert patterns.replaced(pattern, text, "R", everywhere=False) == re.sub(expression(pattern), "R", text, count=1)
    if pattern.strip("*"):  # an empty match right behind another one counts for Python, not for Go
        assert patterns.replaced(pattern, text, "R", everywhere=True) == re.sub(expression(pattern), "R", text)


def test_replacement_of_nothing() -> None:
    assert patterns.replaced("", "abc", "-", everywhere=True) == "-a-b-c-"
    assert patterns.replaced("*", "abc", "-", everywhere=True) == "-"


@pytest.mark.parametrize("word", ["${x#" + "*a" * 500 + "b}", "${x%%" + "a*" * 500 + "b}", "${x//" + "a*" * 500 + "c/d}", "${x//a/}"])
def test_patterns_take_no_exponential_time(word: str) -> None:
    started = time.process_time()
    words.expand(word, {"x": "a" * 50_000})
    assert time.process_time() - started < 5


@given(st.text("$ab{}:-+?#%/\\'\"* ", max_size=30), st.sampled_from("\\`"))
def test_expand_raises_nothing_else(word: str, escape: str) -> None:
    try:
        words.expand(word, {"a": "b a", "b": ""}, escape)
        words.split_expand(word, {"a": "b a", "b": ""}, escape)
    except DockerfileError:
        pass


# --- mounts


def test_mount_with_variables_is_read_twice() -> None:
    first = mounts.parse("type=$T,target=/a,id=$I,uid=$U")
    assert (first.target, first.text, first.uid) == ("/a", "type=$T,target=/a,id=$I,uid=$U", 0)
    known = {"$T": "cache", "$I": "x", "$U": "7"}
    then = mounts.parse(first.text, lambda value: known.get(value, value))
    assert then == Mount("cache", target="/a", id="x", uid=7, read_only=False, text=first.text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "failed to parse csv mounts"), ('target="/a', "failed to parse csv mounts"), ("type=bind,target=/a,ro=maybe", "invalid value for readonly"),
        ("type=bind,required", "unexpected key 'required'"), ("type=cache,target=/a,size=1", "unexpected key 'size'"), ("target=/a,env=X", "unexpected key 'env'"),
        ("type=secret,id=a,from=b", "should not have a from"), ("type=secret,id=a,src=b", "both source and id"), ("type=secret,id=a,sharing=locked", "invalid cache sharing"),
        ("type=cache,target=/a,uid=-1", "invalid value -1 for uid"), ("type=cache,target=/a,gid=4294967296", "invalid value 4294967296 for gid"),
        ("type=cache,target=/a,mode=77777777777", "invalid value 77777777777 for mode"), ("type=tmpfs,target=/a,size=-1", "invalid value for size"),
    ],
)  # fmt: skip
def test_wrong_mounts(text: str, reason: str) -> None:
    with pytest.raises(SplitError, match=reason):
        mounts.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1024", 1024), ("64k", 65536), ("64KB", 65536), ("1.5m", 1572864), ("2GiB", 2 << 30), ("1T", 1 << 40), ("b", None), ("1 m", 1 << 20), ("1x", None)],
)
def test_sizes(text: str, expected: int | None) -> None:
    assert mounts.size_bytes(text) == expected


# --- ports


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", ("80/tcp",)), ("80/UDP", ("80/udp",)), ("8000-8002/sctp", ("8000/sctp", "8001/sctp", "8002/sctp")), ("127.0.0.1:81:80", ("80/tcp",)),
        ("[::1]:81:80", ("80/tcp",)), ("81:80", ("80/tcp",)), ("0", ("0/tcp",)), ("9000-9010:80", ("80/tcp",)),
    ],
)  # fmt: skip
def test_ports(text: str, expected: tuple[str, ...]) -> None:
    assert ports.exposed(text) == expected


@pytest.mark.parametrize("text", ["", "/tcp", "80/icmp", "65536", "90-80", "a", "1-2-3", "nohost:81:80", "80-82:90-91", "80:", "-1", "8-"])
def test_wrong_ports(text: str) -> None:
    with pytest.raises(DockerfileError):
        ports.exposed(text)


# --- the nearest word


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("RNU", ("RUN", "ENV"), "RUN"), ("run", ("RUN",), "RUN"), ("BADCMD", ("CMD", "ADD"), ""), ("cahce", ("cache", "bind"), "cache"), ("x", ("y",), ""),
        ("DIR_ASSET", ("DIR_CONFIG", "DIR_ASSETS"), "DIR_ASSETS"), ("", ("a",), ""), ("a" * 65, ("a" * 65,), ""), ("copy", ("copy",), ""),
    ],
)  # fmt: skip
def test_nearest(word: str, known: tuple[str, ...], expected: str) -> None:
    assert nearest(word, known) == expected
