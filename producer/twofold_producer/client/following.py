"""What a stream of server-sent events says."""

from dataclasses import dataclass

from twofold_producer.client.calls import Call
from twofold_schema.wire import EventReport


class Behind(Exception):
    """More events came than the service keeps for who follows; look at the jobs anew."""


@dataclass(slots=True)
class Stream:
    """Reads a stream line by line (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    Attributes:
        cursor: The last event that came; follow from there to miss nothing.
        is_open: Whether the service has said that nothing is missed from here on.
    """

    cursor: str | None = None
    is_open: bool = False
    _name: str = ""
    _data: str = ""
    _id: str | None = None

    def read(self, line: str) -> EventReport | None:
        """An event, where the line ends one.

        Raises:
            Behind: The service has let go of this follower.
        """
        if line.startswith(":"):
            self.is_open = True
            return None
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data += value
            elif field == "id":
                self._id = value
            return None
        name, data, self._name, self._data = self._name, self._data, "", ""
        if name == "behind":
            raise Behind
        if name != "job":
            return None
        self.cursor = self._id
        return EventReport.model_validate_json(data)


def events(submission_id: object | None, job_id: object | None, after: str | None) -> Call:
    """What follows the stream of events: of a submission, of a job, or of all."""
    stated = {"submission": submission_id, "job": job_id}
    query = [(name, str(value)) for name, value in stated.items() if value is not None]
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    return Call(method="GET", path="/v1/events", query=query, headers=headers)
