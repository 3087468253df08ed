"""What scripts/cluster.py is made of: work is cut into jobs, Ray gives them to ComfyUI servers, and files come back."""
