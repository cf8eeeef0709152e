"""Names of results, from templates of the caller's.

{job}    the job's id
{key}    the job's key
{stem}   the source's own name without its suffix
"""

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath
from uuid import UUID

from twofold_producer.submit.request import JobRequest, Source, is_uri
from twofold_schema.artifacts import JOB, PREVIEW_SUFFIX, ArtifactUri, looks_claimed
from twofold_schema.errors import InvalidParameter, InvalidUri

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_LONGEST_ID = str(UUID(int=0))
# Fence, run and suffix, as a claim adds them.
_LONGEST_FILE = f"{'9' * 12}-{_LONGEST_ID}{PREVIEW_SUFFIX}"


def folder_of(request: JobRequest, prefix: ArtifactUri) -> str:
    """The folder of a job's results below the prefix; only `{job}` is left to be filled in.

    Raises:
        InvalidParameter: The template has no `{job}`, so that jobs would share a folder, or asks
            for what there is not.
        InvalidUri: It makes no good place.
    """
    name = _filled(request.output_name, request, "output_name")
    if JOB not in name:
        raise InvalidParameter(
            f"output_name is {request.output_name!r}; it needs {JOB}, so that no two jobs share a "
            "folder. For a name of your own choice use publish_as."
        )
    check_folder(prefix, name)
    return name


def published(request: JobRequest, prefix: ArtifactUri) -> ArtifactUri | None:
    """The place to which the result is copied; only `{job}` is left to be filled in.

    Raises:
        InvalidParameter: The template asks for what there is not, or names the source, or what
            only a claim may write.
        InvalidUri: It makes no good place.
    """
    if request.publish_as is None:
        return None
    name = _filled(request.publish_as, request, "publish_as")
    suffix = request.output_format.suffix
    place = prefix.child(name if name.endswith(suffix) else name + suffix)
    named = replace(place, key=place.key.replace(JOB, _LONGEST_ID))
    _check(named)
    if looks_claimed(named):
        raise InvalidParameter(
            f"publish_as makes {place}, a name like those under which workers store: it could be "
            "another job's result, or be collected. Choose one without fence and run."
        )
    if is_uri(request.source) and _is_same(ArtifactUri.parse(str(request.source)), place):
        raise InvalidParameter(
            f"publish_as would overwrite the source {place}; choose another name or prefix."
        )
    return place


# Most names hold no key and no stem, so that one check serves them all.
@lru_cache(1024)
def check_folder(prefix: ArtifactUri, name: str) -> None:
    """Accept a folder of results, in which `{job}` stands for the job's id.

    Raises:
        InvalidUri: It makes no good place.
    """
    _check(prefix.child(name.replace(JOB, _LONGEST_ID)).child(_LONGEST_FILE))


def _filled(template: str, request: JobRequest, parameter: str) -> str:
    if template == JOB:
        return template
    known = {"job": JOB, "key": request.key, "stem": _stem(request.source)}

    def fill(placeholder: re.Match[str]) -> str:
        found = known.get(placeholder[1])
        if found is None:
            raise InvalidParameter(
                f"{parameter} has {placeholder[0]}, but "
                + (
                    f"this job has no {placeholder[1]}."
                    if placeholder[1] in known
                    else f"there are only {', '.join(f'{{{name}}}' for name in known)}."
                )
            )
        return found

    return _PLACEHOLDER.sub(fill, template)


def _stem(source: Source) -> str | None:
    """The name of a source that has one."""
    if isinstance(source, bytes) or not isinstance(source, (str, PurePosixPath)):
        return None
    key = ArtifactUri.parse(source).key if is_uri(source) else str(source)
    return PurePosixPath(key).stem or None


def _is_same(one: ArtifactUri, other: ArtifactUri) -> bool:
    """Whether two URIs name one object: a path may be written in several ways, a key in one."""
    return one == other or (one.scheme == other.scheme == "file" and one.path == other.path)


def _check(place: ArtifactUri) -> None:
    if ArtifactUri.parse(str(place)) != place:
        raise InvalidUri(f"{place} is not a good place for a result; choose a simpler name.")
