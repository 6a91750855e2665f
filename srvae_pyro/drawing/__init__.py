"""What a model does as images: grids, labelled figures, folders of generated images."""
