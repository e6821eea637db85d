"""Preprocessing of images, arrays in, arrays out: no files, no training."""
