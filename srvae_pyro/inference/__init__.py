"""Inference on the programs: their ELBO, importance weights, how sites are drawn, operations."""
