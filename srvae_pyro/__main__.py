"""``python -m srvae_pyro``: which commands there are."""

print(
    """The super-resolution VAE in Pyro. Commands, each with --help:

  python -m srvae_pyro.train     train an srVAE or VAE, and go on with a run
  python -m srvae_pyro.generate  draw new pictures from a trained model
  python -m srvae_pyro.upscale   enlarge photographs with a trained srVAE
  python -m srvae_pyro.figures   draw the paper's figures for a trained model
  python -m srvae_pyro.evaluate  measure a trained model

A trained model to try them with is called pretrained:

  python -m srvae_pyro.generate pretrained"""
)
