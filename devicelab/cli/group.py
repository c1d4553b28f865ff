"""What all groups of commands are made of."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["Group"]


class Group(TyperGroup):
    """A program or a group of commands whose own options load no pydantic.

    Typer loads it for every value that should be a bool and is None, as it lets --help and the two options that
    concern completion begin. It would be almost half of the time that help and completion take.
    """

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - Typer does not publish their classes
        """All of its options."""
        options: list[Any] = super().get_params(ctx)
        for option in options:
            if option.is_bool_flag and option.default is None:
                option.default = False
        return options
