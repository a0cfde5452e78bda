"""minidl against other frameworks on the same machine: ``python -m benchmarks --help``.

Read in this order: ``cases`` (what is measured), ``peers`` (who is measured), ``worker`` (one process per peer),
``suite`` (how they take turns), ``report`` (the tables).
"""
