"""Who may connect, and who may do what: the ways to prove it, and the rules."""
