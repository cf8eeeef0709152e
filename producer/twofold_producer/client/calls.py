"""A request of the service, and a flow of them; nothing here does I/O.

A flow is a generator: it yields calls, is sent their answers, and returns what it was for. Both
clients run the same flows.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, TypeAlias, TypeVar

from pydantic import BaseModel, TypeAdapter

from twofold_producer.client.answers import Answer

Value = TypeVar("Value")
#: A flow that returns a value.
Flow: TypeAlias = Generator["Call", Answer, Value]
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request. What is no path of the service's is sent no API key.

    Attributes:
        path: With a leading slash; or a whole URL, which is sent no API key.
        content: Sent as it is, from the start with every try.
        waits: Seconds that the service was asked to wait.
        repeatable: Whether to ask twice comes to the same as once.
        on_line: Told each line of a good answer as it comes, instead of a body at the end.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    content: bytes | BinaryIO | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    waits: float = 0.0
    repeatable: bool = True
    on_line: Callable[[str], None] | None = None


def post(path: str, content: bytes = b"", *, repeatable: bool = True) -> Call:
    """A POST of JSON, or of nothing."""
    headers = {"Content-Type": "application/json"} if content else {}
    return Call(method="POST", path=path, content=content, headers=headers, repeatable=repeatable)


def listed(path: str, kind: type[Body]) -> Flow[list[Body]]:
    """All that there is at a path."""
    answer = yield Call(method="GET", path=path)
    return TypeAdapter(list[kind]).validate_json(answer.body)  # type: ignore[valid-type]
