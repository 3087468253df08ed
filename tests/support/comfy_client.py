"""A client of ComfyUI's HTTP API: build a graph, queue it, wait for it, look at what came out."""

import contextlib
import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

from comfy_messages import Listener


class GraphRejected(Exception):
    """The server refused the graph before running it. `body` is its whole answer."""

    def __init__(self, body):
        self.body = body
        self.error = body.get("error", {})
        self.node_errors = body.get("node_errors", {})
        super().__init__(json.dumps(body, indent=1))

    @property
    def messages(self):
        """What the server says about the nodes, one line per error."""
        return [
            f"{node['class_type']}: {error['message']}: {error['details']}"
            for node in self.node_errors.values()
            for error in node["errors"]
        ]


class ExecutionFailed(Exception):
    """A node raised an exception."""

    def __init__(self, event):
        self.event = event
        self.node_id = event["node_id"]
        self.node_type = event["node_type"]
        self.exception_type = event["exception_type"]
        self.exception_message = event["exception_message"]
        self.traceback = "".join(event["traceback"])
        super().__init__(f"{self.node_type}: {self.exception_message}\n{self.traceback}")


class Interrupted(Exception):
    """The prompt was cancelled."""


class Node:
    """A node of a Graph; `node[i]` is its output `i`."""

    def __init__(self, node_id):
        self.id = node_id

    def __getitem__(self, slot):
        return [self.id, slot]


class Graph:
    """An API-format graph: `g.add("CLIPTextEncode", text="a dog", clip=loader[1])`."""

    def __init__(self):
        self.prompt = {}

    def add(self, class_type, **inputs):
        node_id = str(len(self.prompt) + 1)
        self.prompt[node_id] = {"class_type": class_type, "inputs": inputs}
        return Node(node_id)


class ComfyClient:
    """Talks to the server at `url`. Graphs are `Graph`s or API-format dictionaries."""

    def __init__(self, url):
        self.url = url
        self.client_id = uuid.uuid4().hex

    def request(self, path, body=None, headers=None, timeout=60):
        """The raw answer to a GET, or to a POST where there is a body (bytes, or anything JSON can hold)."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()

    def get(self, path):
        return json.loads(self.request(path))

    def queue(self, graph, **fields):
        """Queue a graph and return its prompt id. `fields` go into the request, such as `extra_data`."""
        prompt = graph.prompt if isinstance(graph, Graph) else graph
        try:
            body = {"prompt": prompt, "client_id": self.client_id, **fields}
            return json.loads(self.request("/prompt", body))["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise GraphRejected(json.loads(error.read())) from None

    def wait(self, prompt_id, timeout=120):
        """Wait until a queued graph has ended; its history entry."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.history(prompt_id)
            if entry is not None:
                for event, data in entry["status"]["messages"]:
                    if event == "execution_error":
                        raise ExecutionFailed(data)
                    if event == "execution_interrupted":
                        raise Interrupted(prompt_id)
                return entry
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} has not ended within {timeout} s")

    def run(self, graph, timeout=120, **fields):
        """Queue a graph, wait for its end, return its history entry (`entry["outputs"][node.id]`)."""
        return self.wait(self.queue(graph, **fields), timeout)

    def history(self, prompt_id):
        """The history entry of a prompt, or None while it has not ended."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self, prompt_id=None):
        self.request("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def object_info(self, class_type=None):
        """What the server tells the frontend about all node classes, or about one."""
        if class_type is None:
            return self.get("/object_info")
        return self.get(f"/object_info/{class_type}")[class_type]

    def view(self, file):
        """The bytes of an output file, given as in a history entry: {filename, subfolder, type}."""
        return self.request("/view?" + urllib.parse.urlencode(file))

    def images(self, entry, node):
        """The images that a node saved or previewed in a run, as PIL images."""
        from PIL import Image

        return [Image.open(io.BytesIO(self.view(file))) for file in entry["outputs"][node.id]["images"]]

    def upload_image(self, image, name):
        """Put a PIL image into the server's input folder; the name to give LoadImage."""
        png = io.BytesIO()
        image.save(png, "PNG")
        boundary = uuid.uuid4().hex
        body = b"".join(
            [
                f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'.encode(),
                f"--{boundary}\r\nContent-Disposition: form-data; "
                f'name="image"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'.encode(),
                png.getvalue(),
                f"\r\n--{boundary}--\r\n".encode(),
            ]
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return json.loads(self.request("/upload/image", body, headers))["name"]

    @contextlib.contextmanager
    def listen(self):
        """Collect the messages that the server sends this client over its websocket."""
        listener = Listener(self.url, self.client_id)
        try:
            yield listener
        finally:
            listener.close()
