"""Upscale photographs of any size by an srVAE, and how good the outputs are."""
