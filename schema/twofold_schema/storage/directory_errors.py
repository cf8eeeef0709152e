"""What the system says of files, in Twofold's words: one for who reads, one for who writes."""

from collections.abc import Iterator
from contextlib import contextmanager

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import ResultDenied, SourceDenied, SourceNotFound, StorageUnavailable


@contextmanager
def reading(uri: ArtifactUri) -> Iterator[None]:
    """Raise what a reader understands.

    Raises:
        SourceNotFound: There is no such file.
        SourceDenied: It may not be read.
        StorageUnavailable: The system failed.
    """
    try:
        yield
    except FileNotFoundError:
        raise SourceNotFound(f"{uri} does not exist; store it, then retry the job.") from None
    except PermissionError:
        raise SourceDenied(f"The worker may not read {uri}; grant it read access.") from None
    except OSError as error:
        raise StorageUnavailable(f"{uri} cannot be read now: {error.strerror}.") from error


@contextmanager
def writing(uri: ArtifactUri) -> Iterator[None]:
    """Raise what a writer understands.

    Raises:
        ResultDenied: It may not be written.
        StorageUnavailable: The system failed.
    """
    try:
        yield
    except PermissionError:
        raise ResultDenied(f"The worker may not write {uri}; grant it write access.") from None
    except OSError as error:
        raise StorageUnavailable(f"{uri} cannot be written now: {error.strerror}.") from error
