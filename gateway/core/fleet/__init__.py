"""Several gateways with one state store: who is there, and what each follows of the others."""
