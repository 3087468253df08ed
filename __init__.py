"""ComfyUI-Attractor: the extension's entry point, nothing else."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import AttractorExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> "AttractorExtension":
    """Called by ComfyUI when it loads custom nodes."""
    try:
        from .nodes import AttractorExtension
    except Exception:
        # The host logs a failing entry point as one line without its cause.
        logging.exception("ComfyUI-Attractor could not be loaded.")
        raise
    return AttractorExtension()
