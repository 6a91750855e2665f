"""What a model does as pictures: grids, labelled figures, folders of generated pictures."""
