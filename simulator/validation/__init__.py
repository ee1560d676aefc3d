"""Published measurements held against what the simulator says of them."""
