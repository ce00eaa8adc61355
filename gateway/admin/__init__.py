"""What operators and their tools look at: health and metrics over HTTP."""
