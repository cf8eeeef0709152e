"""The ledger: the only code that writes job rows.

One function per thing that can happen to a job, each on a connection whose transaction belongs to
the caller. Every write names the state it leaves, and a run's writes also name fence and run, so
that a run that lost a job can change nothing. Every write of several rows locks them in the order
of their ids first, or skips those that others hold, so that no two of them wait for each other.

    submit     insert_jobs, insert_each                 the asking side, with `new_jobs`, `keys`
                                                        and `copying` behind it
    keys       hold, holders, forget                    the callers' own names for jobs
    submissions  begin, join, seal                      jobs that were submitted together
    generations  sealed, try_hold, finish               their end, each time there is one
    requests   cancel, retry                            the owner of a job
    operations  begin, note, stop                       who asked for what, and why
    batches    advance, count                           many jobs by filter, with `matching`
    claims     claim                                    a run takes work; `low_water` says where
                                                        the next claim goes on
    holds      measure, start                           what it says of what it has
    outcomes   complete, fail, retry_later, release     a run ends a claim
    runs       register, renew, drain, stop, give_up    a run's life
    sweeps     promote, expire, rescue                  the keeper, for ever
    reads      get, find, count_states, ...             everybody
    shares     set_share, fold                          whose turn it is
    pauses     pause, resume, in_force                  what is not claimed from for a while
    rights     set_rights, get, every_right             what tenants may do
    api_keys   create, authenticate, rotate, revoke     who asks over HTTP
    events     read, is_kept, end                       what happened, in an order that stays
    webhooks   create, rotate, disable, enable          who is told what happened
    sending    lease, record                            what is told by webhooks, for keepers
    deliveries  find, redeliver, forget                 the same, for people
    tallies    overview, backlog, fold, correct         how many there are; with `shares` it keeps
                                                        one of the `journals`
    rollups    roll_up, read, forget                    events by the minute, for charts
    audit      running_without_run, broken_lives, ...   what no CHECK can say
    history    move, bring_back                         jobs that ended a while ago
    retention  make_partitions, drop_partitions         how long jobs and events are kept
    tenant_days  forget                                 the same of tenants that keep less
"""
