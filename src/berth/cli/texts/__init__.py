"""The words of the help pages: what a command does, examples that work, and what else to read.

One module for each kind of command, each a table: command -> Text. A test holds that every command has one, and that
the examples parse.
"""


class Text:
    """description: paragraphs; one that starts with two spaces is printed as it stands. examples: (what it does, the
    command line). see_also: commands. groups: (heading, names of flags); flags that no group names come last.
    """

    __slots__ = ("description", "examples", "groups", "see_also")

    def __init__(
        self, *description: str, examples: "tuple[tuple[str, str], ...]" = (), see_also: "tuple[str, ...]" = (),
        groups: "tuple[tuple[str, str], ...]" = (),
    ) -> None:  # fmt: skip
        self.description, self.examples, self.see_also, self.groups = description, examples, see_also, groups


_MODULES = ("running", "life", "looking", "building", "images", "registries", "networks", "volumes", "engine")


def text_of(name: str) -> Text:
    """KeyError for a command without words."""
    for module in _MODULES:
        table: dict[str, Text] = __import__(f"berth.cli.texts.{module}", fromlist=["TEXTS"]).TEXTS
        if name in table:
            return table[name]
    raise KeyError(name)
