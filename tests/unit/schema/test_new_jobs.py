"""What a job asks for has one digest, for as long as keys are remembered."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from twofold_schema import lanes
from twofold_schema.formats import ResultFormat
from twofold_schema.job import Output, Parameters
from twofold_schema.ledger.new_jobs import NewJob, Terms
from twofold_schema.states import JobClass

Text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
Times = st.none() | st.just(datetime(2100, 1, 1, tzinfo=UTC))


def digest(new_job: NewJob) -> bytes:
    """The digest as it always was: of one JSON document, its names sorted, defaults left out."""
    terms = new_job.terms
    payload: dict[str, Any] = {
        "source": new_job.source,
        "output_prefix": terms.output_prefix,
        "parameters": terms.parameters.model_dump(exclude_defaults=True),
        **terms.output.model_dump(exclude_defaults=True),
        **({"publish_to": new_job.publish_to} if new_job.publish_to else {}),
        "size": (new_job.measure.width, new_job.measure.height) if new_job.measure else None,
        "job_class": terms.job_class,
        "metadata": new_job.metadata or {},
        "start_at": terms.start_at,
        "start_by": terms.start_by,
        "finish_by": terms.finish_by,
    }
    return hashlib.sha256(json.dumps(payload, sort_keys=True, default=str).encode()).digest()


@given(
    st.builds(
        NewJob,
        source=Text,
        key=Text,
        seed=st.integers(0, 2**63 - 1),
        metadata=st.none() | st.dictionaries(Text, Text, max_size=3),
        publish_to=st.none() | Text,
        measure=st.none() | st.just(lanes.measure(Parameters(), 512, 640)),
        terms=st.builds(
            Terms,
            output_prefix=Text,
            max_attempts=st.integers(1, 20),
            parameters=st.builds(
                Parameters,
                seed=st.none() | st.integers(0, 2**63 - 1),
                steps=st.integers(1, 150),
                prompt=Text,
            ),
            output=st.builds(
                Output, format=st.sampled_from(ResultFormat), quality=st.integers(1, 100), name=Text
            ),
            job_class=st.sampled_from(JobClass),
            start_at=Times,
            start_by=Times,
            finish_by=Times,
        ),
    )
)
def test_the_digest_of_a_request_never_changes(new_job: NewJob) -> None:
    assert new_job.fingerprint() == digest(new_job)


def test_a_seed_that_was_drawn_is_no_part_of_it() -> None:
    drawn, again = (
        NewJob(
            source="s3://twofold/cat.png",
            seed=seed,
            terms=Terms(output_prefix="s3://twofold/r", parameters=Parameters(), max_attempts=3),
        )
        for seed in (1, 2)
    )
    assert drawn.fingerprint() == again.fingerprint()
    expected = "739401245cfaafdae849a6a67ede284bad3b6515713c6cc24d3201d1e3eae623"
    assert drawn.fingerprint().hex() == expected
