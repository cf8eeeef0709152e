"""A face of the client: the one for threads is made of the one for an event loop."""
