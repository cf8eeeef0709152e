"""From what a caller gives to a job that may be written.

`request` says what may be asked, `acceptance` turns that into a job, with `names` for results and
`uploads` for sources that are handed over (`latents` among them). `transaction` lets all of it
happen inside the caller's own.
"""
