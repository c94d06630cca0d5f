"""Go's text/template as far as `--format` and a log's `tag` need it: fields, pipelines, if, range, with, variables, functions.

Works on plain JSON values. A field that does not exist is an error that names it, as in Docker.
Source: pkg.go.dev/text/template; Docker's own functions: json, join, lower, upper, title, split, pad, truncate.
"""

from berth.models.jsonlite import dumps, dumps_as_go

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


# What one rendering may write and do: an engine renders what its clients send.
_MAX_CHARACTERS = 1 << 20
_MAX_STEPS = 1 << 20
_MAX_WIDTH = 10_000


class TemplateError(ValueError):
    """A template is wrong; the message says where, in Go's words."""


class ParseError(TemplateError):
    """It is no template, whatever the values."""


class UnknownField(TemplateError):
    """It names a field that there is not."""


class Map(dict):
    """A map of names that nobody can know: one that is not there is no value, and no error as a missing field is."""


class Output:
    """What has been rendered, and how much more may be."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._characters, self._steps = _MAX_CHARACTERS, _MAX_STEPS

    def append(self, text: str) -> None:
        self._pieces.append(text)
        self._characters -= len(text)
        self.step()

    def step(self) -> None:
        self._steps -= 1
        if self._characters < 0 or self._steps < 0:
            raise TemplateError(f"template: it gives more than {_MAX_CHARACTERS} characters, or takes too many steps")

    def text(self) -> str:
        return "".join(self._pieces)


class Template:
    """Parses once, renders any number of values; TemplateError for a template that is wrong."""

    def __init__(self, text: str) -> None:
        try:
            self._nodes, _ = _parse_nodes(_split(text), 0, ())
        except RecursionError:
            raise TemplateError("template: exceeded maximum template depth") from None

    def render(self, value: "Any") -> str:
        out = Output()
        try:
            _render(self._nodes, value, {"$": value}, out)
        except RecursionError:
            raise TemplateError("template: exceeded maximum template depth") from None
        return out.text()


# -- parsing: a node is ('text', s) | ('pipe', words, name) | ('if'|'with'|'range', words, names, nodes, else nodes)


def _split(text: str) -> "list[tuple[str, str]]":
    """Text and {{actions}}, with Go's {{- and -}} trimming."""
    found: list[tuple[str, str]] = []
    trim_next = False
    while text:
        before, mark, rest = text.partition("{{")
        if trim_next:
            before = before.lstrip()
        if mark and rest.startswith("- "):
            before, rest = before.rstrip(), rest[2:]
        if before:
            found.append(("text", before))
        if not mark:
            break
        end = _end_of_action(rest)
        action, text = rest[:end], rest[end + 2 :]
        trim_next = action.endswith(" -")
        action = action.removesuffix(" -").strip()
        if not action.startswith("/*"):
            found.append(("action", action))
    return found


def _end_of_action(text: str) -> int:
    quote = ""
    index = 0
    while index < len(text):
        letter = text[index]
        if quote:
            if letter == "\\" and quote == '"':
                index += 1
            elif letter == quote:
                quote = ""
        elif letter in "\"`'":
            quote = letter
        elif text.startswith("}}", index):
            return index
        index += 1
    raise ParseError("template parsing error: unclosed action")


def _parse_nodes(pieces: "list[tuple[str, str]]", index: int, ends: "tuple[str, ...]") -> "tuple[list, int]":
    nodes: list = []
    while index < len(pieces):
        kind, text = pieces[index]
        if kind == "text":
            nodes.append(("text", text))
            index += 1
            continue
        words = _words(text)
        first = words[0] if words else ""
        if first in ends:
            return nodes, index
        if first in ("if", "with", "range"):
            node, index = _parse_block(first, words[1:], pieces, index + 1)
            nodes.append(node)
            continue
        if first in ("end", "else"):
            raise ParseError(f"template parsing error: unexpected {{{{{first}}}}}")
        names, rest = _assignment(words)
        nodes.append(("pipe", rest, names[0] if names else ""))
        index += 1
    if ends:
        raise ParseError("template parsing error: unexpected EOF: {{end}} is missing")
    return nodes, index


def _parse_block(kind: str, words: "list[str]", pieces: "list[tuple[str, str]]", index: int) -> "tuple[tuple, int]":
    names, rest = _assignment(words)
    body, index = _parse_nodes(pieces, index, ("end", "else"))
    otherwise: list = []
    else_words = _words(pieces[index][1])
    if else_words[0] == "else":
        if len(else_words) > 1 and else_words[1] in ("if", "with"):
            node, index = _parse_block(else_words[1], else_words[2:], pieces, index + 1)
            return (kind, rest, names, body, [node]), index
        otherwise, index = _parse_nodes(pieces, index + 1, ("end",))
    return (kind, rest, names, body, otherwise), index + 1


def _assignment(words: "list[str]") -> "tuple[list[str], list[str]]":
    """`$x := ...` and `$i, $x := ...`."""
    for sign in (":=", "="):
        if sign in words:
            at = words.index(sign)
            return [word for word in words[:at] if word != ","], words[at + 1 :]
    return [], words


def _words(action: str) -> "list[str]":
    found: list[str] = []
    index = 0
    while index < len(action):
        letter = action[index]
        if letter.isspace():
            index += 1
        elif letter in "\"`'":
            end = index + 1
            while end < len(action) and action[end] != letter:
                end += 2 if action[end] == "\\" and letter != "`" else 1
            found.append(action[index : end + 1])
            index = end + 1
        elif action.startswith(":=", index):
            found.append(":=")
            index += 2
        elif letter in "()|,=":
            found.append(letter)
            index += 1
        else:
            end = index
            while end < len(action) and not action[end].isspace() and action[end] not in "()|,=\"`" and not action.startswith(":=", end):
                end += 1
            word = action[index:end]
            if word.startswith(".") and found and found[-1] == ")" and action[index - 1] == ")":
                word = "\0" + word  # a field of what the parentheses gave
            found.append(word)
            index = end
    return found


# -- evaluating --------------------------------------------------------------------------------------


def _render(nodes: list, dot: "Any", variables: "dict[str, Any]", out: Output) -> None:
    for node in nodes:
        if node[0] == "text":
            out.append(node[1])
        elif node[0] == "pipe":
            value = _pipeline(node[1], dot, variables)
            if node[2]:
                variables[node[2]] = value
            else:
                out.append(_shown(value))
        elif node[0] == "range":
            _render_range(node, dot, variables, out)
        else:
            value = _pipeline(node[1], dot, variables)
            inner = dict(variables)
            if node[2]:
                inner[node[2][0]] = value
            if _true(value):
                _render(node[3], value if node[0] == "with" else dot, inner if node[2] else variables, out)
            else:
                _render(node[4], dot, variables, out)


def _render_range(node: tuple, dot: "Any", variables: "dict[str, Any]", out: Output) -> None:
    value = _pipeline(node[1], dot, variables)
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = sorted(value.items())
    elif isinstance(value, int):
        items = [(i, i) for i in range(min(value, _MAX_STEPS))]
    else:
        items = list(enumerate(value or []))
    if not items:
        _render(node[4], dot, variables, out)
    for key, item in items:
        out.step()
        inner = dict(variables)
        if len(node[2]) == 2:
            inner[node[2][0]], inner[node[2][1]] = key, item
        elif node[2]:
            inner[node[2][0]] = item
        _render(node[3], item, inner, out)


def _pipeline(words: "list[str]", dot: "Any", variables: "dict[str, Any]") -> "Any":
    value, index = _command_list(words, 0, dot, variables)
    if index != len(words):
        raise ParseError(f"template parsing error: unexpected {words[index]!r}")
    return value


_NOTHING = object()


def _command_list(words: "list[str]", index: int, dot: "Any", variables: "dict[str, Any]") -> "tuple[Any, int]":
    piped: Any = _NOTHING
    while True:
        piped, index = _command(words, index, dot, variables, piped)
        if index < len(words) and words[index] == "|":
            index += 1
            continue
        return piped, index


def _command(words: "list[str]", index: int, dot: "Any", variables: "dict[str, Any]", piped: "Any") -> "tuple[Any, int]":
    if index >= len(words):
        raise ParseError("template parsing error: missing value for command")
    function = FUNCTIONS.get(words[index])
    if function is not None:
        index += 1
    arguments = []
    while index < len(words) and words[index] not in ("|", ")"):
        value, index = _operand(words, index, dot, variables)
        arguments.append(value)
    if piped is not _NOTHING:
        arguments.append(piped)
    if function is None and arguments and callable(arguments[0]):
        function, arguments = arguments[0], arguments[1:]  # a method
    if function is None:
        if len(arguments) != 1:
            raise ParseError("template parsing error: a value is not a function and takes no arguments")
        return arguments[0], index
    try:
        return function(*arguments), index
    except (TypeError, IndexError, ValueError, AttributeError) as error:
        raise TemplateError(f"template: wrong arguments: {error}") from None


def _operand(words: "list[str]", index: int, dot: "Any", variables: "dict[str, Any]") -> "tuple[Any, int]":
    word = words[index]
    if word == "(":
        value, index = _command_list(words, index + 1, dot, variables)
        if index >= len(words) or words[index] != ")":
            raise ParseError("template parsing error: unclosed left parenthesis")
        index += 1
        if index < len(words) and words[index].startswith("\0"):
            return _field(value, words[index][1:]), index + 1
        return value, index
    return _value(word, dot, variables), index + 1


def _value(word: str, dot: "Any", variables: "dict[str, Any]") -> "Any":
    if word[0] == "`":
        return word[1:-1]
    if word[0] == '"':
        text = word[1:-1]
        for escape, letter in (("\\n", "\n"), ("\\t", "\t"), ('\\"', '"'), ("\\\\", "\\")):
            text = text.replace(escape, letter)
        return text
    if word[0] == "'":
        return ord(word[1:-1])
    if word == ".":
        return dot
    if word[0] == ".":
        return _field(dot, word)
    if word[0] == "$":
        name, point, rest = word.partition(".")
        if name not in variables:
            raise ParseError(f"template parsing error: undefined variable {name!r}")
        return _field(variables[name], point + rest) if rest else variables[name]
    if word in ("true", "false"):
        return word == "true"
    if word == "nil":
        return None
    try:
        return int(word, 0) if "." not in word else float(word)
    except ValueError:
        raise ParseError(f'template parsing error: function "{word}" not defined') from None


def _field(value: "Any", path: str) -> "Any":
    for name in path.split(".")[1:]:
        if value is None:
            raise TemplateError(f"template: nil pointer evaluating {path}")
        if isinstance(value, Map):
            if name not in value:
                return None  # nor is there anything in it
            value = value[name]
            continue
        if name == "Label" and isinstance(value, dict) and isinstance(value.get("Labels"), str):
            value = {"Label": _label_of(value["Labels"])}
        if not isinstance(value, dict) or name not in value:
            raise UnknownField(f"template: executing at <{path}>: can't evaluate field {name}: there is no such field")
        value = value[name]
    return value


def _label_of(labels: str) -> "Callable[[str], str]":
    """`{{.Label "key"}}` of a list's row; for the row of headings, the key itself."""
    pairs = dict(pair.partition("=")[::2] for pair in labels.split(","))
    return lambda key: key if labels == "LABELS" else pairs.get(key, "")


def _true(value: "Any") -> bool:
    return bool(value)


def _shown(value: "Any") -> str:
    """What Go's fmt prints: true, <no value>, [a b], map[k:v]."""
    if value is None:
        return "<no value>"
    if value is True or value is False:
        return str(value).lower()
    if isinstance(value, list):
        return "[" + " ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{_shown(v)}" for k, v in sorted(value.items())) + "]"
    return str(value)


def _index(value: "Any", *keys: "Any") -> "Any":
    for key in keys:
        if isinstance(value, list | str) and isinstance(key, int) and not 0 <= key < len(value):
            raise IndexError(f"error calling index: index out of range: {key}")
        value = value.get(key, "") if isinstance(value, dict) else value[key]
    return value


def _printf(format_: str, *values: "Any") -> str:
    """fmt.Sprintf for the verbs that JSON values have a use for."""
    pieces, left = [], list(values)
    text, mark, rest = format_.partition("%")
    while mark:
        pieces.append(text)
        length = len(rest) - len(rest.lstrip("+-# 0123456789."))
        spec, verb, rest = rest[:length], rest[length : length + 1], rest[length + 1 :]
        if verb == "%":
            pieces.append("%")
        else:
            pieces.append(_formatted(spec, verb, left.pop(0)) if left else f"%!{verb}(MISSING)" if verb else "%!(NOVERB)")
        text, mark, rest = rest.partition("%")
    pieces.append(text)
    if left:
        pieces.append("%!(EXTRA " + ", ".join(f"{_kind(value)}={_shown(value)}" for value in left) + ")")
    return "".join(_bounded(pieces))


def _formatted(spec: str, verb: str, value: "Any") -> str:
    if any(len(number) > 4 for number in spec.replace(".", " ").strip("+-# ").split()):
        raise ValueError(f"printf: a width of five digits in %{spec[:20]}{verb}")
    if verb in "vsq":
        text = dumps(_shown(value)) if verb == "q" else _shown(value)
        return ("%" + spec.replace("#", "").replace("+", "") + "s") % text
    if verb == "T" or (verb == "t" and isinstance(value, bool)):
        return _kind(value) if verb == "T" else _shown(value)
    allowed = {"int": "dxXocbfeEgG", "float64": "feEgG"}.get(_kind(value), "")
    if verb not in allowed or (verb in "feEgG" and isinstance(value, int)):
        return f"%!{verb}({_kind(value)}={_shown(value)})"
    return f"{value:b}" if verb == "b" else ("%" + spec + verb) % value


def _kind(value: "Any") -> str:
    """The name that Go has for a type."""
    names = {bool: "bool", int: "int", float: "float64", str: "string", type(None): "<nil>", list: "[]interface {}"}
    return names.get(type(value), "map[string]interface {}")


def _bounded(texts: "list[str]") -> "list[str]":
    """The same, if together they are not too long to be put together: a pipeline can double its text again and again."""
    if sum(map(len, texts)) > _MAX_CHARACTERS:
        raise ValueError(f"more than {_MAX_CHARACTERS} characters")
    return texts


def _print(*values: "Any") -> str:
    """fmt.Sprint: a space only between two of which neither is text."""
    pieces = []
    for before, value in zip(("", *values), values, strict=False):
        pieces += [" "] * (not isinstance(before, str) and not isinstance(value, str)) + [_shown(value)]
    return "".join(_bounded(pieces))


def _println(*values: "Any") -> str:
    return " ".join(_bounded(list(map(_shown, values)))) + "\n"


def _escaped(text: "Any", table: "dict[str, str]") -> str:
    return "".join(table.get(letter, letter) for letter in _shown(text))


def _urlquery(*values: "Any") -> str:
    plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
    data = _print(*values).encode()
    return "".join(chr(byte) if chr(byte) in plain else "+" if byte == 32 else f"%{byte:02X}" for byte in data)


_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"}
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _pad(text: str, before: int, after: int) -> str:
    if max(before, after) > _MAX_WIDTH:
        raise ValueError(f"pad: more than {_MAX_WIDTH} spaces")
    _bounded([text])
    return " " * before + text + " " * after if text else ""


def _compare(first: "Any", *rest: "Any") -> bool:
    return any(first == other for other in rest)


def _and(*values: "Any") -> "Any":
    return next((value for value in values if not value), values[-1])


def _or(*values: "Any") -> "Any":
    return next((value for value in values if value), values[-1])


FUNCTIONS: "dict[str, Callable[..., Any]]" = {
    "json": dumps_as_go, "join": lambda items, separator: separator.join(_bounded([separator * len(items or []), *map(_shown, items or [])])[1:]), "lower": lambda s: s.lower(),
    "upper": lambda s: s.upper(), "title": lambda s: s.title(), "split": lambda s, separator: s.split(separator),
    "pad": _pad, "truncate": lambda s, n: s[:n],
    "index": _index, "len": len, "print": _print, "println": _println,
    "printf": _printf, "eq": _compare, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b, "not": lambda v: not v, "and": _and, "or": _or,
    "html": lambda *v: _escaped(_print(*v), _HTML), "js": lambda *v: _escaped(_print(*v), _JS), "urlquery": _urlquery,
    "slice": lambda value, start=0, end=None: value[start:end],
}  # fmt: skip
