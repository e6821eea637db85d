"""One self-contained HTML page over any set of runs; see `boneage_jax/report/__main__.py`."""
