"""The store: one directory a run, with everything that happened in it and everything needed to repeat it.

::

    <state>/runs/digits-20261125-141233-ab12/
      experiment.yaml             as the user wrote it
      plan/                       the plan's files
      ledger.sqlite               what happened (SQLite)
      blobs/<aa>/<sha256>         updates, noisy means, server optimizer states, by their content
      checkpoints/round-0001.safetensors
      secret                      of a private run: what its cohorts are drawn from, for its owner's eyes
      incoming/, lock             while somebody writes

Nothing in it refers to a place outside: it can be copied, moved and read elsewhere. From the outside in::

    runs          all runs of a state directory: list, find, newest
    run           one run: updates and checkpoints become durable in the right order
      resume      where an interrupted run stands
      lock        one writer at a time
      checkpoints safetensors files whose bytes depend on nothing but their content
      blobs       files by their content
      ledger      what is written to the database, one verb a transaction; made of jobbing, rounding, writing
      reading     what can be asked of it
        records   the answers
        releases  those about a private run's noisy means
        tables    between them and the database's rows
        schema    the database's tables, and how an older file becomes a newer one
        database  SQLite: opening, transactions, and its errors in words
"""
