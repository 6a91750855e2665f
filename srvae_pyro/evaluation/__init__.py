"""Evaluation: the ELBO and its terms, baselines, pictures of what a model does."""
