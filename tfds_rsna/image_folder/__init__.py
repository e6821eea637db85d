"""A user's own images: a folder of images and a table of labels."""
