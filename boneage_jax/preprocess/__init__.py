"""Preprocessing of images: arrays in, arrays out, no files, no training.

`transform.transform_example` and `resize.resize` alone take an image dict, for what moves with it.
"""
