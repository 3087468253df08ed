"""The messages that a ComfyUI server sends over its websocket."""

import asyncio
import json
import struct
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import aiohttp

# Types of binary messages (the host's BinaryEventTypes).
PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4


class Message(NamedTuple):
    """`type` is the server's own, or for binary messages "preview" ({image: bytes, node_id, prompt_id, ...})
    or "text" ({node_id, text})."""

    type: str
    data: Any


def parse_binary(raw):
    (kind,) = struct.unpack_from(">I", raw)
    if kind == PREVIEW:
        return Message("preview", {"image": raw[8:]})
    if kind not in (TEXT, PREVIEW_WITH_METADATA):
        return Message(f"binary {kind}", raw[4:])
    (length,) = struct.unpack_from(">I", raw, 4)
    head, rest = raw[8 : 8 + length].decode(), raw[8 + length :]
    if kind == TEXT:
        return Message("text", {"node_id": head, "text": rest.decode()})
    return Message("preview", {**json.loads(head), "image": rest})


class Listener:
    """Collects messages in a thread of its own; `messages` grows as they come."""

    def __init__(self, url, client_id, timeout=30):
        self.messages = []
        self._changed = threading.Condition()
        self._connected = False
        self._failure = None
        self._loop = asyncio.new_event_loop()
        self._task = None
        self._thread = threading.Thread(target=self._run, args=(url, client_id), daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._failure, timeout)
        if not self._connected:
            self.close()
            raise ConnectionError(f"no websocket at {url}: {self._failure}")

    def _run(self, url, client_id):
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._receive(url, client_id))
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except (aiohttp.ClientError, OSError) as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
        finally:
            self._loop.close()

    async def _receive(self, url, client_id):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{url}/ws?clientId={client_id}", max_msg_size=0) as socket,
        ):
            # What the browser says first; without it previews come without their node's id.
            await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            async for raw in socket:
                if raw.type == aiohttp.WSMsgType.TEXT:
                    content = json.loads(raw.data)
                    message = Message(content["type"], content["data"])
                elif raw.type == aiohttp.WSMsgType.BINARY:
                    message = parse_binary(raw.data)
                else:
                    continue
                with self._changed:
                    # The server's answer to the flags: from now on it knows this client.
                    self._connected = self._connected or message.type == "feature_flags"
                    self.messages.append(message)
                    self._changed.notify_all()

    def of_type(self, kind):
        """The data of all messages of one type so far."""
        with self._changed:
            return [message.data for message in self.messages if message.type == kind]

    def wait_for(self, kind, condition=lambda data: True, timeout=60):
        """The data of the first message of this type that meets the condition, past or future."""
        deadline = time.monotonic() + timeout
        seen = 0
        with self._changed:
            while True:
                for message in self.messages[seen:]:
                    if message.type == kind and condition(message.data):
                        return message.data
                seen = len(self.messages)
                if self._failure or not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no such {kind!r} message; seen: {[m.type for m in self.messages]}")

    def close(self):
        if self._thread.is_alive() and self._task is not None:
            with suppress(RuntimeError):  # the server went away, and the loop has ended in between
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
