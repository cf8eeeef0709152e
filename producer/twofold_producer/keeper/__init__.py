"""The keeper: does what no single job does, for ever.

`duties` says what that is, `loop` does it again and again; `operations` does what was asked for by
filter; `publisher`, `reporter` (with `manifests`) and `garbage` are the duties that touch storage,
`webhooks` (with `posting`) tells endpoints; `process` runs them all until SIGTERM.
"""
