"""`python -m simulator` is `moesim`."""

from simulator.cli import main

main()
