"""A state store in one SQLite file, for a gateway that runs alone."""
