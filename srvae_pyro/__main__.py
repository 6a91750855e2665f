"""``python -m srvae_pyro``: which commands there are."""

print(
    """The super-resolution VAE in Pyro. Commands, each with --help:

  python -m srvae_pyro.train       train an srVAE or VAE, and go on with a run
  python -m srvae_pyro.generate    draw new images from a trained model
  python -m srvae_pyro.upscale     upscale photographs with a trained srVAE
  python -m srvae_pyro.export      write a network that upscales as an ONNX file
  python -m srvae_pyro.figures     draw the paper's figures for a trained model
  python -m srvae_pyro.evaluate    measure a trained model
  python -m srvae_pyro.compress    write images into one file, losslessly
  python -m srvae_pyro.decompress  read them back
  python -m srvae_pyro.demo        look at a trained model in the browser

Trained models to try them with, of small images and of photographs:

  python -m srvae_pyro.generate pretrained
  python -m srvae_pyro.upscale pretrained-photo PHOTO.jpg"""
)
