"""What settings of several parts are made of."""

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]


def readable(read: Callable[[str], object]) -> AfterValidator:
    """A text stays a text, but has to be one that can be read."""

    def check(text: str) -> str:
        read(text)
        return text

    return AfterValidator(check)
