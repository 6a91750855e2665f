"""Training.

From the top: ``session`` takes a run from its settings to its report, ``loop`` from its first
update to its last, ``learner`` through one update. ``progress``, ``validation`` and ``recovery``
say how far the run is, how good, and how to get back to it.
"""
