"""Serving: requests that arrive, wait, share steps of an engine, and leave."""
