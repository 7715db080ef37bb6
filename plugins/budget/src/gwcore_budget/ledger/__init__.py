"""The two-phase ledger: hold → post, void or reap. One algorithm (``books``), two homes (``sqlite``, ``postgres``)."""
