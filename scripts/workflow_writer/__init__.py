"""What scripts/write_workflows.py is made of: descriptions of graphs, their layout, and ComfyUI's formats of them."""
