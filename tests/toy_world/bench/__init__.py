"""The toy world's benchmark: what is run, what is measured, and what the paper's claims are worth there."""
