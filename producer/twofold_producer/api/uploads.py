"""`/v1/uploads`: a place for a source, and a URL to put it there."""

from datetime import timedelta

from fastapi import APIRouter, Response, status

from twofold_producer.api.caller import Submitter
from twofold_producer.api.description import LOCATION, errors
from twofold_producer.api.service import Parts
from twofold_schema.artifacts import tenant_upload_place
from twofold_schema.ids import new_id
from twofold_schema.wire import UploadBody, UploadLink

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    responses=errors(400, 413, 422) | {201: {"headers": LOCATION}},
)
def begin(body: UploadBody, caller: Submitter, parts: Parts, response: Response) -> UploadLink:
    """A place of the tenant's own for a source, and a URL that takes it for a while.

    Put the file there with the headers that are stated, then submit its `uri`.
    """
    name = body.sha256 or str(new_id())
    place = tenant_upload_place(parts.places.uploads_uri, caller.submits_for, name)
    seconds = parts.settings.api_link_seconds
    url = parts.producer.storage.sign_write(
        place, content_type=body.content_type, expires=timedelta(seconds=seconds)
    )
    response.headers["Location"] = url
    return UploadLink(
        uri=str(place),
        url=url,
        headers={"Content-Type": body.content_type},
        expires_in_seconds=seconds,
    )
