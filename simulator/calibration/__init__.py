"""Measuring devices, importing published measurements, and fitting cost models to them."""
