"""Training.

``command`` takes a run from its settings to its report, ``loop`` from its first step to its last,
``learner`` through one step. ``progress``, ``validation`` and ``recovery`` keep how far it is, how
good it is, and what it takes to resume it.
"""
