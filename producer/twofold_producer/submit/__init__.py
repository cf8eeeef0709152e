"""From what a caller gives to a job that may be written.

`request` says what may be asked, `acceptance` turns that into a job, with `names` for results and
`uploads` for sources that are handed over (`latents` among them). Of many, `chunks` gathers some at
a time, `bulk` drives and counts, `writing` is the database's side, `submission` what came of it,
and `manifest` where they may come from. `transaction` lets all of it happen inside the caller's
own.
"""
