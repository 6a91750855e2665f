"""Training: the loop, its schedule, averaged weights, checkpoints and metrics."""
