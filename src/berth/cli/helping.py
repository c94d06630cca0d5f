"""Help a person can read: the pages of berth, of groups and of commands, and what is said of a slip of the pen.

The words are in `texts`, the flags in each command's module; here they are laid out for the width of the terminal.
Nothing of this is imported on the way of a command that is right.
"""

import os
import textwrap

from berth.cli.commands import COMMANDS, GLOBAL_FLAGS, GROUP_SUMMARIES, GROUPS, aliases
from berth.cli.flags import LISTS, Arity, Flag, Misuse, Refused, Syntax, UsageError

_SHORTEST, _WIDEST = 60, 110
_COMMON = "run exec ps build logs stop start rm images inspect stats why".split()


def syntax_of(name: str) -> "Syntax | None":
    """The table of a command; None for the one that has verbs of its own, `oci`."""
    module = COMMANDS[name][0]
    if name == "oci":
        return None
    syntax: Syntax = __import__(f"berth.cli.{module}", fromlist=["SYNTAX"]).SYNTAX[name]
    return syntax


def width() -> int:
    """Columns of the terminal, within what is good to read."""
    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns)
    except (OSError, ValueError):
        columns = 100
    return max(_SHORTEST, min(columns, _WIDEST))


# -- pages --------------------------------------------------------------------------------------------------------


def root() -> str:
    """`berth --help`."""
    lines = ["Usage:  berth [OPTIONS] COMMAND [ARG...]", "", "Builds, ships and runs programs in Linux containers", "", "Common commands:"]
    lines += _commands({name: COMMANDS[name][2] for name in _COMMON if name in COMMANDS})
    lines += ["", "Groups of commands:", *_commands(GROUP_SUMMARIES), "", "Commands:"]
    lines += _commands({name: entry[2] for name, entry in COMMANDS.items() if " " not in name and name not in _COMMON})
    lines += ["", "Options:", *option_lines(GLOBAL_FLAGS)]
    lines += ["", *_filled("Environment: BERTH_HOST or DOCKER_HOST name the engine, DOCKER_CONTEXT a context, DOCKER_CONFIG the directory "
                           "of contexts, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH the use of TLS. Without any of them berth talks to its "
                           "own engine, and starts it where none runs."),
              "", *_filled("A container is named by its name, its id, or the first letters of its id where no other begins with them."),
              "", "Run 'berth COMMAND --help' for more information on a command."]  # fmt: skip
    return "\n".join(lines) + "\n"


def group(name: str) -> str:
    """`berth container --help`."""
    verbs: dict[str, str] = {}
    for verb, command in GROUPS[name].items():
        if command not in [GROUPS[name][known] for known in verbs]:  # `remove` is said by `rm`
            verbs[verb] = COMMANDS[command][2]
    lines = [f"Usage:  berth {name} COMMAND", "", GROUP_SUMMARIES[name], "", "Commands:", *_commands(verbs)]
    return "\n".join([*lines, "", f"Run 'berth {name} COMMAND --help' for more information on a command."]) + "\n"


def page(name: str, shown: str, syntax: Syntax) -> str:
    """A command's page. shown: the name it was called by."""
    from berth.cli.texts import text_of

    text = text_of(name)
    lines = [f"Usage:  berth {shown} {syntax.usage}".rstrip(), "", COMMANDS[name][2]]
    others = [alias for alias in aliases(name) if alias != shown]
    if others:
        lines += ["", *_filled("Also called as: " + ", ".join(f"berth {alias}" for alias in others))]
    for paragraph in text.description:
        lines += ["", *(paragraph.splitlines() if paragraph.startswith("  ") else _filled(paragraph))]
    for title, flags in grouped(syntax.flags, text.groups):
        lines += ["", f"{title}:", *option_lines(flags)]
    if any(flag[2] in LISTS for flag in syntax.flags):
        lines += ["", "What has ... behind it may be given several times."]
    if text.examples:
        lines += ["", "Examples:"]
        for what, command in text.examples:
            lines += [*_filled(what, "  "), *(f"    $ {line}" for line in command.splitlines()), ""]
        lines.pop()
    if text.see_also:
        lines += ["", *_filled("See also: " + ", ".join(f"berth {other}" for other in text.see_also))]
    return "\n".join(lines) + "\n"


def help_text(usage: str, summary: str, flags: "tuple[Flag, ...]") -> str:
    """A page for a command that is not in the tables: the OCI runtime's verbs."""
    lines = [f"Usage:  berth {usage}", "", summary]
    return "\n".join([*lines, *(["", "Options:", *option_lines(flags)] if flags else [])]) + "\n"


def grouped(flags: "tuple[Flag, ...]", groups: "tuple[tuple[str, str], ...]") -> "list[tuple[str, tuple[Flag, ...]]]":
    """Flags under their headings; what no group names comes last."""
    if not flags:
        return []
    by_name = {flag[0]: flag for flag in flags}
    found = []
    for title, names in groups:
        members = tuple(by_name.pop(name) for name in names.split() if name in by_name)
        if members:
            found.append((title, members))
    if by_name:
        found.append(("Options" if not found else "Other options", tuple(by_name.values())))
    return found


def option_lines(flags: "tuple[Flag, ...]") -> "list[str]":
    """`-e, --env NAME[=VALUE] ...   what it does`, wrapped beside a column of names; ... for what may be given several times."""
    heads = []
    for long, short, kind, placeholder, _ in flags:
        head = f"  -{short}, --{long}" if short else f"      --{long}"
        heads.append(head if kind == "bool" else f"{head} {placeholder or kind}{' ...' if kind in LISTS else ''}")
    column = min(max(map(len, heads)) + 3, 38)
    lines = []
    for head, flag in zip(heads, flags, strict=True):
        wrapped = textwrap.wrap(flag[4], width() - column) or [""]
        if len(head) + 2 > column:
            lines.append(head)
            head = ""
        lines.append(head.ljust(column) + wrapped[0])
        lines += [" " * column + line for line in wrapped[1:]]
    return lines


def _commands(commands: "dict[str, str]") -> "list[str]":
    longest = max(map(len, commands)) + 3
    return [f"  {name:<{longest}}{summary}" for name, summary in commands.items()]


def _filled(text: str, indent: str = "") -> "list[str]":
    return textwrap.wrap(text, width(), initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# -- mistakes -----------------------------------------------------------------------------------------------------


def wrong_line(error: UsageError, name: str, shown: str) -> str:
    """What a person reads about a line that is wrong: in Docker's form, the usage behind it where that helps."""
    if isinstance(error, Refused):
        return f"berth: {error}\n\nRun 'berth {shown} --help' for more information"
    if isinstance(error, Misuse) and not isinstance(error, Arity):
        return str(error)
    syntax = syntax_of(name)
    usage = f"Usage:  berth {shown} {syntax.usage if syntax else ''}".rstrip()
    return f"{error}\n\n{usage}\n\nRun 'berth {shown} --help' for more information"


def unknown(shown: str) -> str:
    """`shown`: one word, or a group and a word that is none of its verbs."""
    first, _, verb = shown.partition(" ")
    if first in GROUPS:
        close, prefix = nearest(verb, list(GROUPS[first])), f"berth {first}"
        usage = f"\n\nUsage:  berth {first} COMMAND"
    else:
        close, prefix, usage = nearest(first, [*(name for name in COMMANDS if " " not in name), *GROUPS]), "berth", ""
    hint = f"; did you mean '{prefix} {close}'?" if close else ""
    return f"berth: unknown command: berth {shown}{hint}{usage}\n\nRun '{prefix} --help' for more information"


def nearest(word: str, known: "list[str]") -> str:
    """The one a slip or two away; '' if there is none. A word of three letters or less allows one slip. Pure."""
    allowed = 1 if len(word) <= 3 else 2 if len(word) <= 8 else 3
    slips, close = min(((_slips(word, name), name) for name in known), default=(allowed + 1, ""))
    if slips <= allowed and slips < max(len(close), 2):
        return close
    begun = [name for name in known if name.startswith(word)]
    return begun[0] if len(begun) == 1 and len(word) > 1 else ""


def _slips(one: str, other: str) -> int:
    """Letters left out, added, changed, or swapped with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
