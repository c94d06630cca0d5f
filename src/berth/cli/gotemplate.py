"""The templates of `--format`: what is wrong with one is a wrong use of the command."""

from berth.cli.flags import Misuse
from berth.models import gotemplate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Template(gotemplate.Template):
    """Parses once, renders any number of values."""

    def __init__(self, text: str) -> None:
        try:
            super().__init__(text)
        except gotemplate.TemplateError as error:
            raise Misuse(str(error)) from None

    def render(self, value: "Any") -> str:
        try:
            return super().render(value)
        except gotemplate.TemplateError as error:
            raise Misuse(str(error)) from None
