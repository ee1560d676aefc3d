"""`python -m simulator` is `moesim`."""

from simulator.cli.app import main

main()
