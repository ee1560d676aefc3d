"""The operator graph of a step: shapes and dependencies. Knows no hardware beyond how ranks are placed."""
