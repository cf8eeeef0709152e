"""The HTTP client: the same jobs from anywhere, with an API key instead of a database.

calls        a request, and flows of them; no I/O
submitting, jobs, operating    what is asked for, and what is made of the answers; no I/O
following    what a stream of events says
answers      what an answer means, and which error it is
connecting   where the service is, and how a request gets there
retrying     what is tried again, and when
going_on     what is said to whoever interrupts a call
asynchronous, synchronous      the two faces: the second is made of the first by `tools.sync_client`
"""

from twofold_producer.client.asynchronous.client import AsyncClient
from twofold_producer.client.synchronous.client import Client

__all__ = ["AsyncClient", "Client"]
