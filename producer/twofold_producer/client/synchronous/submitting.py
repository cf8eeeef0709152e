# Made of asynchronous/submitting.py by `python -m tools.sync_client`.
"""The part of the client that submits."""

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from twofold_producer.client import connecting, going_on, submitting
from twofold_producer.client.synchronous.sending import Sender
from twofold_producer.progress import watched
from twofold_producer.submit.submission import OnAnswers, Submission
from twofold_schema.wire import JobReport


class Submitter(Sender):
    """Submits jobs."""

    def submit(
        self,
        source: str | Path | bytes,
        *,
        key: str | None = None,
        wait: float = 0.0,
        **options: Any,  # noqa: ANN401 - checked by JobBody, field by field
    ) -> JobReport:
        """Submit one job.

        Args:
            source: A URI; or the path of a file, or a file's bytes, which are uploaded first.
            key: Your own name for the job: the same call again is the same job.
            wait: Seconds to wait for its end.
            options: The other fields of `JobBody`.

        Raises:
            SubmitError: It was not accepted.
        """
        uri = self.upload(source)
        return self._run(submitting.submit(uri, options, key=key, wait=wait))

    def upload(self, source: str | Path | bytes) -> str:
        """Store what is to be a source; returns its URI, which is the same for the same content.

        Args:
            source: The path of a file, or a file's bytes. A URI is returned as it is.

        Raises:
            SourceUnreadable: It cannot be read, or is of no kind that is taken.
        """
        if isinstance(source, str) and "://" in source:
            return source
        data = source if isinstance(source, bytes) else connecting.read(source)
        sha256 = hashlib.sha256(data).hexdigest()
        link = self._run(submitting.upload(connecting.media_type(data), sha256))
        return self._run(submitting.put(link, data))

    def submit_many(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        key: str | None = None,
        on_answers: OnAnswers | None = None,
        progress: bool | None = None,
    ) -> Submission:
        """Submit many jobs, however many: they are written to a temporary file, and sent from it.

        Args:
            items: The fields of `JobBody`, each, whose source is a URI, as `upload` gives one of a
                file; taken one by one.
            key: Your own name for all of them together: the same call again goes on where it was.
            on_answers: Told what came of each item, in order.
            progress: Whether to show how far it is; None does on a terminal.

        Raises:
            InvalidParameter: The key is none that a header carries, or an item is none.
        """
        named = submitting.key_of_many(key)
        with tempfile.TemporaryFile() as lines:
            count = sum(lines.write(line) > 0 for line in submitting.as_lines(items))
            with watched(
                "submitting",
                done="items were answered",
                progress=progress,
                go_on=lambda: going_on.submitting(named),
            ) as tell:
                flow = submitting.submit_lines(
                    lines,
                    key=named,
                    on_answers=on_answers,
                    on_answer=lambda answered: tell(answered, count),
                )
                return self._run(flow)

    def submit_manifest(
        self,
        place: str | PathLike[str],
        *,
        key: str | None = None,
        on_answers: OnAnswers | None = None,
    ) -> Submission:
        """Submit the lines of a JSONL manifest: of a file here, or at a URI.

        Raises:
            InvalidParameter: The key is none that a header carries.
            SourceUnreadable: There is no such file here, or it cannot be read.
        """
        if isinstance(place, str) and "://" in place:
            flow = submitting.submit_manifest(place, key=key, on_answers=on_answers)
            return self._run(flow)
        with connecting.opened(place) as lines:
            flow = submitting.submit_lines(lines, key=key, on_answers=on_answers)
            return self._run(flow)
