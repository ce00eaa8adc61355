"""Random and damaged input for codecs and sessions: `python -m tests.fuzz --help`."""
