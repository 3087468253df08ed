"""Progress on a node (bar, preview image, line of text), and the user's Cancel."""

import comfy.model_management as mm
import comfy.utils
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer

Interrupted = mm.InterruptProcessingException
check_interrupt = mm.throw_exception_if_processing_interrupted

_warned: set[str] = set()  # ids of nodes


class Progress:
    """Progress of one node. Every update raises `Interrupted` if the user has cancelled."""

    def __init__(self, total: int, node_id: str):
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)
        self.node_id = node_id

    def update(self, value: int, preview: Image.Image | None = None) -> None:
        """value: out of `total`. preview: a picture that replaces the last one on the node."""
        check_interrupt()
        self._bar.update_absolute(value, preview=preview and ("PNG", preview, None))

    def text(self, line: str) -> None:
        """Show a line of text on the node, in place of the last one."""
        _send(line, self.node_id)


def show_text(line: str) -> None:
    """Show a line of text on the node that is running, in place of the last one. Does nothing outside a server."""
    if (running := get_executing_context()) is not None:
        _send(line, running.node_id)


def show_warning(line: str) -> None:
    """Show a warning on the node that is running, and an empty one to take the last one back."""
    running = get_executing_context()
    if running is None:
        return
    if line:
        _warned.add(running.node_id)
        _send(f"\u26a0 {line}", running.node_id)
    elif running.node_id in _warned:
        _warned.remove(running.node_id)
        _send("The warning that was here no longer holds.", running.node_id)


def said(text: str, **more: list) -> dict[str, list]:
    """What a node says of its result, as the `ui` of its output: the pack's page script shows it, also when a workflow comes
    back from the history. It is shown on the node at once too, for pages that run no script of ours."""
    show_text(text)
    return {**more, "text": [text]}


def _send(line: str, node_id: str) -> None:
    server = PromptServer.instance
    if server.client_id is not None:
        server.send_progress_text(line, node_id, server.client_id)
