"""From a timeline to a Result: numbers with intervals, and the records a report draws."""
