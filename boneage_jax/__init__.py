"""Paediatric bone age from hand radiographs in JAX and Flax: five papers, one codebase."""

__version__ = '0.1.0'
