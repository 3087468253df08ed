"""ComfyUI-Attractor: the extension's entry point, nothing else."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI when it loads custom nodes."""
    try:
        from .nodes import AttractorExtension
    except Exception:
        # The host logs a failing entry point as one line without its cause.
        logging.exception("ComfyUI-Attractor could not be loaded.")
        raise
    return AttractorExtension()
