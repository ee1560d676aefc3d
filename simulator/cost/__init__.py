"""What operators cost on a machine: seconds if alone, bytes, joules, GiB, dollars, each with its relative error."""
