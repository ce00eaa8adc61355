"""Sockets: listeners, TLS and the one connection class that hosts every protocol's session."""
