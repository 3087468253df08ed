"""Models of others, for masking and evaluation: found on disk first, downloaded when asked for."""
