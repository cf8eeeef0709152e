"""`twofold api`: the ledger over HTTP. Extra `api`.

    app        the service: its parts, and what every request goes through
    problems   errors as problem+json (RFC 9457)
    description  what OpenAPI says of answers beside what FastAPI finds by itself
    caller     who asks, and what they may
    edge       what is decided about a request before anybody reads it
    jobs, submissions, events, queues, operations, fleet, uploads      the routes, by noun
    follower   the one reader of events of a process, for all who wait
    lookups    reads of single jobs, many in one trip
    counts     counts of large submissions, shared by all who ask

Routes are plain functions that run in threads, but for those that wait: these are coroutines that
hold neither a thread nor a connection. What a caller may see is decided in the ledger: every call
of it names the caller's tenant.
"""
