"""Evaluation: pictures of what a model does."""
