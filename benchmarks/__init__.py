"""How fast it is, beside PyTorch where that is installed. `python -m benchmarks.everything` runs
all of them.
"""
