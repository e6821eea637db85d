"""Preprocessing of films, arrays in, arrays out: no files, no training."""
