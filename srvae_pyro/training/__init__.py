"""Training: ``command`` is the whole of a run, ``loop`` its steps, ``learner`` a single one."""
