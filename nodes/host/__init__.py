"""The adapter to ComfyUI's internals. No other part of the pack imports `comfy`, `folder_paths` or `server`."""
