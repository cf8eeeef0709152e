# Made of asynchronous/__init__.py by `python -m tools.sync_client`.
"""A face of the client: the one for threads is made of the one for an event loop."""
