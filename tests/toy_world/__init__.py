"""A small world in which a diffusion model really learns: scenes, models trained on them, and their weights."""
