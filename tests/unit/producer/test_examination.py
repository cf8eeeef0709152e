"""How checks are run: in order, side by side, each within its bound, none hiding another."""

import re
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from twofold_producer.doctor import fleet
from twofold_producer.doctor.checks import CheckName
from twofold_producer.doctor.database import of_clock
from twofold_producer.doctor.examination import Blocked, Check, examine
from twofold_schema import findings
from twofold_schema.findings import Finding, Status

PAGE = Path(__file__).parents[3] / "docs" / "07-doctor.md"


def well(name: str) -> Check:
    return Check(name, lambda: [findings.ok(name, "all is well.")])


def blocked(name: str, by: str) -> Check:
    def look() -> Iterator[Finding]:
        raise Blocked(by, f"{by} is away.", f"Start {by}.")

    return Check(name, look)


def test_one_that_hangs_ends_with_its_bound_and_holds_up_nobody() -> None:
    never = threading.Event()

    def hang() -> Iterator[Finding]:
        yield findings.ok("slow", "begun.")
        never.wait()

    began = time.monotonic()
    seen = list(examine([Check("slow", hang, 0.3), well("next")]))

    assert [(one.check, one.status) for one in seen] == [
        ("slow", Status.OK),
        ("slow", Status.FAILED),
        ("next", Status.OK),
    ]
    assert "no answer within" in seen[1].what
    assert seen[1].mend
    assert 0.3 <= time.monotonic() - began < 5
    never.set()


def test_they_run_side_by_side_and_are_heard_in_their_order() -> None:
    """Each of two waits until the other has begun."""
    together = threading.Barrier(2)

    def look(name: str) -> Check:
        def probe() -> Iterator[Finding]:
            together.wait(timeout=10)
            yield findings.ok(name, "here.")

        return Check(name, probe)

    assert [one.check for one in examine([look("first"), look("second")])] == ["first", "second"]


def test_what_nobody_foresaw_is_a_failure_by_its_class_and_place_without_its_words() -> None:
    def look() -> Iterator[Finding]:
        yield findings.ok("odd", "so far.")
        raise LookupError("hunter2")

    seen = list(examine([Check("odd", look), well("next")]))

    assert [one.status for one in seen] == [Status.OK, Status.FAILED, Status.OK]
    assert re.fullmatch(r"LookupError in producer/test_examination.py, line \d+\.", seen[1].what)
    assert seen[1].mend


def test_what_another_failure_hides_is_skipped_and_points_to_it() -> None:
    seen = list(examine([blocked("a", "a"), blocked("b", "a")]))

    assert [(one.check, one.status) for one in seen] == [
        ("a", Status.FAILED),
        ("b", Status.SKIPPED),
    ]
    assert seen[0].what == "a is away."
    assert "see a" in seen[1].what


@pytest.mark.parametrize("others", [[], [well("a")]])
def test_what_nobody_else_reports_is_a_failure_in_its_own_name(others: list[Check]) -> None:
    *_, seen = examine([*others, blocked("b", "a")])

    assert (seen.check, seen.status, seen.what) == ("b", Status.FAILED, "a is away.")


def test_what_was_asked_for_is_not_skipped_but_failed() -> None:
    check = Check("here", lambda: [findings.skipped("here", "not here.", "Go there.")])

    assert [one.status for one in examine([check])] == [Status.SKIPPED]
    assert [one.status for one in examine([check], asked=["here"])] == [Status.FAILED]


def test_no_finding_quotes_a_secret() -> None:
    url = "redis://:hunter2%2Fhunter2@host/0"
    said = f"{url} and hunter2/hunter2"
    check = Check("loud", lambda: [findings.failed("loud", said, said)])

    (seen,) = examine([check], secrets=[url])

    assert "hunter2" not in seen.what + seen.mend


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        (0.0, Status.OK),
        (-4.9, Status.OK),
        (5.0, Status.WARNING),
        (-59.0, Status.WARNING),
        (60.0, Status.FAILED),
        (-3600.0, Status.FAILED),
    ],
)
def test_a_clock_is_judged_by_how_far_it_is_off(ahead: float, status: Status) -> None:
    assert of_clock("S3's", ahead).status is status


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, "0.2 s"), (65, "65 s"), (600, "10 min"), (86400, "24 h")]
)
def test_a_span_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert fleet._span(timedelta(seconds=seconds)) == said


def test_a_finding_survives_its_json() -> None:
    finding = findings.failed("storage", "ü is away.", "Look.")

    assert Finding.from_json(finding.to_json()) == finding
    assert list(finding.to_json()) == ["check", "status", "what", "mend", "seconds"]


def test_the_doctors_page_names_every_check_in_its_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert rows == list(CheckName)
