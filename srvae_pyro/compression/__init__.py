"""Images in as many bytes as a model's likelihood promises: bits-back coding."""

__all__ = ["LESS_MEMORY"]

LESS_MEMORY = "give a smaller --group, or fewer images"  # where memory does not suffice
