"""What a submission came to, as JSONL: a line for each job, in the order of submitting."""

import hashlib
import json
from collections.abc import Mapping
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Any, Self

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.job import Job
from twofold_schema.storage.port import Storage

MEDIA_TYPE = "application/jsonl"

#: Up to here a manifest is kept in memory, beyond it on disk, in bytes.
_IN_MEMORY = 4 * 2**20


def line_of(job: Job) -> dict[str, Any]:
    """What a manifest says of a job that has ended."""
    whose: dict[str, Any] = {
        "job_id": str(job.id),
        "key": job.key,
        "source": job.source,
        "state": job.state,
    }
    if job.metadata:
        whose["metadata"] = dict(job.metadata)
    if job.result is not None:
        return whose | job.result.model_dump(mode="json")
    error = job.error
    return whose | {
        "code": error and error.code,
        "message": error and error.message,
        "attempts": job.attempts,
    }


class Manifest:
    """A manifest that is being written: on disk once it is large, never whole in memory."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed with this
        self._digest = hashlib.sha256()

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        text = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        self._digest.update(text)
        self._file.write(text)

    def store(self, storage: Storage, place: ArtifactUri, metadata: Mapping[str, str]) -> None:
        """Store it; the same there is success.

        Raises:
            ResultConflict: Another one lies there.
            JobError: It may not be written, or storage is away.
        """
        storage.write_once(
            place,
            self._file,
            content_type=MEDIA_TYPE,
            sha256=self._digest.hexdigest(),
            metadata=metadata,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
