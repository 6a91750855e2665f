"""Inference on the programs: ELBO, importance weights, decoding, operations."""
