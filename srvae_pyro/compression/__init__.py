"""Images in as many bytes as a model's likelihood promises: bits-back coding."""
