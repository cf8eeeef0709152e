"""The HTTP client: the same jobs from anywhere, with an API key instead of a database.

calls       what is asked and what is made of the answers; no I/O
retrying    what is tried again, and when
answers     what an answer means, and which error it is
following   what a stream of events says
client, async_client    the two faces, with the same names
"""

from twofold_producer.client.async_client import AsyncClient
from twofold_producer.client.client import Client

__all__ = ["AsyncClient", "Client"]
