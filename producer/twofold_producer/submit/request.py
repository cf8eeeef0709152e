"""What a caller asks for, checked before anything is read or written."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias, TypeGuard

from PIL import Image
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from twofold_producer.submit.latents import Tensor
from twofold_schema.errors import InvalidParameter
from twofold_schema.job import can_be_tenant
from twofold_schema.request import JobFields, Key

#: A URI, the path of a local file, a file's bytes, or a picture or latents in memory.
Source: TypeAlias = str | Path | bytes | Image.Image | Tensor

_KEY: TypeAdapter[str] = TypeAdapter(Key)


def _known(source: object) -> object:
    """A source, or a sentence for whoever gives something else: what pydantic says is for us."""
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, Path, bytes, Image.Image, Tensor)):
        return source
    if isinstance(source, os.PathLike):
        return Path(source)
    raise ValueError(
        f"a {type(source).__name__} is no source; give a URI, a path, a file's bytes, a PIL image, "
        "or latents as a tensor or array"
    )


class JobRequest(JobFields):
    """One picture to upscale, and how.

    Attributes:
        source: `s3://bucket/key`, `file:///path`, a local path, bytes, a PIL image, or latents as
            a torch tensor or NumPy array. What is not a URI is stored under TWOFOLD_UPLOADS first.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    source: Annotated[Source, BeforeValidator(_known)]

    @classmethod
    def of(cls, asked: "JobRequest | Source", options: Mapping[str, Any] | None = None) -> Self:
        """A request as it is, or one made of a source and options.

        Raises:
            InvalidParameter: An option is unknown or out of its range, or beside a whole request;
                the message names it.
        """
        if isinstance(asked, cls):
            if options:
                raise InvalidParameter(
                    f"A whole request takes no options beside it ({', '.join(options)}); "
                    "give them to JobRequest."
                )
            return asked
        return cls.of_fields({"source": asked, **(options or {})})

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Self:
        """A request made of its fields.

        Raises:
            InvalidParameter: One is unknown or out of its range; the message names it.
        """
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as invalid:
            faults = (
                f"{'.'.join(str(part) for part in fault['loc']) or 'request'}: "
                f"{fault['msg'].removeprefix('Value error, ')}"
                for fault in invalid.errors(include_url=False, include_input=False)
            )
            raise InvalidParameter(f"The job was not accepted: {'; '.join(faults)}.") from None


class JsonRequest(JobRequest):
    """A request whose fields come from JSON, where a number is no text and no text a number."""

    model_config = ConfigDict(strict=True)


def check_key(key: str) -> None:
    """Accept the key of a submission.

    Raises:
        InvalidParameter: It is empty, too long, or no text that can be stored.
    """
    try:
        _KEY.validate_python(key)
    except ValidationError as invalid:
        fault = invalid.errors(include_url=False, include_input=False)[0]["msg"]
        raise InvalidParameter(f"key: {fault.removeprefix('Value error, ')}.") from None


def check_tenant(tenant: str) -> None:
    """Accept the name of the tenant whose jobs they will be.

    Raises:
        InvalidParameter: It is blank.
    """
    if not can_be_tenant(tenant):
        raise InvalidParameter("tenant: a name cannot be blank; name one, or leave it out.")


def is_uri(source: object) -> TypeGuard[str]:
    """Whether the source already lies somewhere."""
    return isinstance(source, str) and "://" in source
