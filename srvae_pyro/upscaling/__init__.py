"""Upscale photographs of any size by a srVAE, and how good the outputs are."""
