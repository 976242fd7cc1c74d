"""Types of arguments that several commands take."""

import click

ID = click.IntRange(1, 2**63 - 1)
"""An id of a Space or an export: a positive bigint."""

_LONGEST_NAME = 200


class Name(click.ParamType[str]):
    """A name that is printed in a line of fields: not empty, without control characters."""

    name = "name"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. Raises click.BadParameter."""
        text = str(value)
        if not text.strip() or not text.isprintable():
            self.fail("must have a visible character, and no tabs, line breaks or other control characters", param, ctx)
        if len(text) > _LONGEST_NAME:
            self.fail(f"must have at most {_LONGEST_NAME} characters", param, ctx)
        return text
