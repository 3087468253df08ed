"""From photos and masks to a token: the training node, its run on disk and what it shows."""
