"""Pages and files for readers, drawn from a Result alone: nothing here computes physics."""
