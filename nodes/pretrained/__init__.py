"""Pretrained models for masking and evaluation: looked for on disk first, downloaded if the user asks for it."""
