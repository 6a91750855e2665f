"""What ``evaluate`` measures: ELBO, likelihood, FID, super-resolution, and its reports."""
