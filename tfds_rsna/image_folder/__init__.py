"""A user's own films: a folder of images and a table of labels."""
