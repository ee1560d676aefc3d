"""Capacity planning: the space of a plan, its search in shards, the answer, and what one change does to a run."""
