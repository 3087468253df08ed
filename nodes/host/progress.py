"""Progress on a node (bar, preview image, line of text), and the user's Cancel."""

import comfy.model_management as mm
import comfy.utils
from PIL import Image
from server import PromptServer

Interrupted = mm.InterruptProcessingException
check_interrupt = mm.throw_exception_if_processing_interrupted


class Progress:
    """Progress of one node. Every update raises `Interrupted` if the user has cancelled."""

    def __init__(self, total: int, node_id: str):
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)
        self._node_id = node_id

    def update(self, value: int, preview: Image.Image | None = None) -> None:
        """value: out of `total`. preview: a picture that replaces the last one on the node."""
        check_interrupt()
        self._bar.update_absolute(value, preview=preview and ("PNG", preview, None))

    def text(self, line: str) -> None:
        """Show a line of text on the node, in place of the last one."""
        server = PromptServer.instance
        if server.client_id is not None:
            server.send_progress_text(line, self._node_id, server.client_id)
