"""What is asked over HTTP is taken as JSON says it: no text for a number, nothing unknown."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from twofold_producer.submit.manifest import Line
from twofold_schema.errors import InvalidParameter
from twofold_schema.request import JobFields
from twofold_schema.states import JobClass
from twofold_schema.wire import (
    JobBody,
    OperationBody,
    PauseBody,
    ResumeBody,
    Retry,
    Submit,
    UploadBody,
)

_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
_TIME = "2027-01-31T12:00:00Z"

#: A body of each kind with all that it can hold.
_WHOLE: dict[type[BaseModel], dict[str, Any]] = {
    JobBody: {
        "source": "s3://in/a.png",
        "steps": 7,
        "guidance_scale": 1,
        "seed": 2**63 - 1,
        "reproducible": True,
        "prompt": "a cat",
        "key": "cat",
        "width": 64,
        "height": 64,
        "latents": False,
        "output_format": "webp",
        "output_quality": 80,
        "job_class": "bulk",
        "metadata": {"order": "42"},
        "start_at": _TIME,
        "start_by": "2027-01-31T14:00:00+01:00",
        "finish_by": None,
        "max_attempts": 3,
        "webhook": _ID,
    },
    Submit: {"items": [{"source": "whatever"}]},
    Retry: {"start_by": _TIME, "finish_by": _TIME},
    UploadBody: {"content_type": "image/png"},
    PauseBody: {"job_class": "bulk", "reason": "x"},
    ResumeBody: {"job_class": None, "reason": "x"},
    OperationBody: {
        "kind": "retry",
        "where": {
            "tenant": "acme",
            "job_class": "bulk",
            "states": ["failed", "expired"],
            "submission_id": _ID,
            "created_after": _TIME,
            "created_before": _TIME,
            "error": "corrupt_source",
        },
        "reason": "x",
        "dry_run": True,
        "expected": 5,
    },
}
_BODIES = pytest.mark.parametrize("kind", list(_WHOLE), ids=lambda kind: kind.__name__)


@_BODIES
def test_a_whole_body_is_taken_and_goes_back_as_it_came(kind: type[BaseModel]) -> None:
    taken = kind.model_validate(_WHOLE[kind])
    assert kind.model_validate(taken.model_dump(mode="json")) == taken


@_BODIES
def test_an_unknown_field_is_refused_by_its_name(kind: type[BaseModel]) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(_WHOLE[kind] | {"colour": "red"})
    assert [fault["loc"] for fault in refused.value.errors()] == [("colour",)]


def _other_types() -> list[tuple[type[BaseModel], tuple[str, ...], object]]:
    """Every number as text, every text as a number, every truth as both."""
    wrong: list[tuple[type[BaseModel], tuple[str, ...], object]] = []
    for kind, whole in _WHOLE.items():
        within: dict[tuple[str, ...], object] = {(name,): whole[name] for name in whole}
        within |= {("where", name): value for name, value in whole.get("where", {}).items()}
        for path, value in within.items():
            match value:
                case bool():
                    others: list[object] = [int(value), str(value).lower()]
                case int() | float():
                    others = [str(value), True]
                case str():
                    others = [5, True]
                case _:
                    others = []
            wrong += [(kind, path, other) for other in others]
    return wrong


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    _other_types(),
    ids=lambda part: part.__name__ if isinstance(part, type) else str(part),
)
def test_a_value_of_another_type_is_refused_by_its_name(
    kind: type[BaseModel], path: tuple[str, ...], value: object
) -> None:
    body = dict(_WHOLE[kind])
    if len(path) == 1:
        body[path[0]] = value
    else:
        body[path[0]] = body[path[0]] | {path[1]: value}
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(body)
    assert path in {fault["loc"] for fault in refused.value.errors()}


def test_a_line_of_a_manifest_is_as_strict_as_a_body_and_python_is_not() -> None:
    line = Line(1, b'{"source": "s3://in/a.png", "steps": "7"}')
    with pytest.raises(InvalidParameter, match=r"Line 1.*steps"):
        line.request()
    whole = Line(1, b'{"source": "s3://in/a.png", "job_class": "bulk", "steps": 7}').request()
    assert (whole.job_class, whole.steps) == (JobClass.BULK, 7)
    assert JobFields.model_validate({"steps": "7"}).steps == 7
