"""Engines: who waits for whom. They know seconds, streams and dependencies, and no FLOPs."""
