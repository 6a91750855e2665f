"""Upscale photographs of any size by a srVAE, and how good the outputs are."""

__all__ = ["LESS_MEMORY"]

LESS_MEMORY = "give a smaller --memory-gb or --tile"  # what to do where memory does not suffice
