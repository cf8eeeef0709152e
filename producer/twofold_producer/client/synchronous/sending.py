# Made of asynchronous/sending.py by `python -m tools.sync_client`.
"""How calls are carried out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from twofold_producer.client import connecting
from twofold_producer.client.answers import Answer, says_done
from twofold_producer.client.calls import Call, Flow, Value
from twofold_producer.client.connecting import Service
from twofold_producer.client.retrying import Tries


class Sender:
    """Sends calls to the service, and again where nobody answered or it is refused for now.

    Args:
        service: Where it is, and who asks.
        http: Sends them.
    """

    def __init__(self, service: Service, http: httpx2.Client) -> None:
        self._service = service
        self._http = http

    def _run(self, flow: Flow[Value]) -> Value:
        """Carry a flow's calls out."""
        try:
            call = next(flow)
            while True:
                call = flow.send(self._answer(call))
        except StopIteration as end:
            value: Value = end.value
            return value

    def _answer(self, call: Call) -> Answer:
        tries = Tries(self._service.max_retries)
        while True:
            answer, lost = None, None
            try:
                answer = self._ask(call)
                if answer.is_good:
                    return answer
            except httpx2.TransportError as error:
                lost = error
            pause = tries.pause_after(answer, repeatable=call.repeatable)
            if pause is None:
                raise answer.error() if answer else connecting.unreachable(lost)
            time.sleep(pause)

    def _ask(self, call: Call) -> Answer:
        content = connecting.body(call.content)
        request = self._http.build_request(**self._service.request(call), content=content)
        response = self._http.send(request, stream=True)
        try:
            lines = call.on_line if says_done(response.status_code) else None
            if lines is None:
                response.read()
                return connecting.answer(response)
            for line in response.iter_lines():
                lines(line)
            return Answer(response.status_code, dict(response.headers), b"")
        finally:
            response.close()

    @contextmanager
    def _followed(self, call: Call) -> Iterator[Iterator[str]]:
        """The lines of a stream; they end with the connection."""
        tries = Tries(self._service.max_retries)
        while True:
            request = self._http.build_request(**self._service.request(call))
            answer, lost = None, None
            try:
                response = self._http.send(request, stream=True)
                if says_done(response.status_code):
                    break
                response.read()
                answer = connecting.answer(response)
            except httpx2.TransportError as error:
                lost = error
            pause = tries.pause_after(answer, repeatable=True)
            if pause is None:
                raise answer.error() if answer else connecting.unreachable(lost)
            time.sleep(pause)
        try:
            yield _until_lost(response)
        finally:
            response.close()


def _until_lost(response: httpx2.Response) -> Iterator[str]:
    try:
        yield from response.iter_lines()
    except httpx2.TransportError:
        # As if it had ended well: who follows goes on from the last event.
        return
