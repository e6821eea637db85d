"""Paediatric bone age from hand radiographs in JAX and Flax: five papers, one codebase."""
