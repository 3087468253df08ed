"""ComfyUI's HTTP interface, as far as a worker needs it."""

from pathlib import PurePosixPath

import requests

from .outcomes import Lost, NodeError, Unfit

PATIENCE = 60.0  # seconds for an answer; a server that samples on a CPU may need some


class ComfyServer:
    """One running server. Every method raises `Lost` where it is not there, and where it answers that it is at fault."""

    def __init__(self, url: str, patience: float = PATIENCE):
        self.url, self._patience = url.rstrip("/"), patience
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy stands before machines of one's own

    def _request(self, method: str, path: str, **options) -> requests.Response:
        try:
            answer = self._session.request(method, self.url + path, timeout=self._patience, **options)
        except requests.Timeout as error:
            raise Silent(f"no answer to {path} within {self._patience:.0f} s") from error
        except requests.RequestException as error:
            raise Lost(f"no connection ({type(error).__name__} at {path})") from error
        if answer.status_code >= 500:
            raise Lost(f"it answers {answer.status_code} to {path}")
        return answer

    def _json(self, method: str, path: str, **options):
        answer = self._request(method, path, **options)
        try:
            answer.raise_for_status()
            return answer.json()
        except (requests.RequestException, ValueError) as error:
            raise Unfit(f"{path} is not answered as by ComfyUI with this pack ({answer.status_code})") from error

    def check(self) -> str:
        """Make sure that this is ComfyUI with the pack; the separator of its paths."""
        system = self._json("GET", "/system_stats")["system"]
        self.evaluation("cluster")  # the pack's own route
        return "\\" if str(system.get("os", "")).startswith(("nt", "win")) else "/"

    def upload(self, place: str, path: str, data: bytes) -> None:
        """Put a file below the input or output folder, unless one of its length is there."""
        name, folder = PurePosixPath(path).name, str(PurePosixPath(path).parent)
        where = {"type": place, "subfolder": folder, "filename": name}
        there = self._request("HEAD", "/view", params=where)
        if there.status_code == 200 and there.headers.get("Content-Length") == str(len(data)):
            return
        fields = {"type": place, "subfolder": folder, "overwrite": "true"}
        answer = self._request("POST", "/upload/image", data=fields, files={"image": (name, data)})
        if answer.status_code != 200:
            raise Unfit(f"it does not take {path} ({answer.status_code}; start it with a larger --max-upload-size?)")

    def fetch(self, path: str) -> bytes | None:
        """A file below the output folder; None where there is none."""
        where = {"type": "output", "subfolder": str(PurePosixPath(path).parent), "filename": PurePosixPath(path).name}
        answer = self._request("GET", "/view", params=where)
        return answer.content if answer.status_code == 200 else None

    def queue(self, graph: dict) -> str:
        """Queue a graph; its id.

        Raises:
            Unfit: the server refuses it: a node, a model or a file is missing.
        """
        answer = self._request("POST", "/prompt", json={"prompt": graph})
        if answer.status_code == 200:
            return answer.json()["prompt_id"]
        raise Unfit("it refuses the graph: " + _refusal(answer))

    def ended(self, prompt: str) -> bool:
        """Whether a graph has been run.

        Raises:
            NodeError: a node has raised an error.
        """
        entry = self._json("GET", f"/history/{prompt}").get(prompt)
        for event, data in entry["status"]["messages"] if entry else ():
            if event == "execution_error":
                raise NodeError(f"{data['node_type']}: {data['exception_message'].strip()}")
            if event == "execution_interrupted":
                raise Lost("somebody cancelled the job there")
        return entry is not None

    def said(self, prompt: str) -> list[str]:
        """What the nodes of a graph that was run say of themselves, in the order of their ids."""
        outputs = self._json("GET", f"/history/{prompt}")[prompt]["outputs"]
        return [str(text) for _, output in sorted(outputs.items()) for text in output.get("text", [])]

    def waiting(self, prompt: str) -> list[str]:
        """The ids of the graphs that are run now, if this one is among them or waits for them; empty if neither."""
        queue = self._json("GET", "/queue")
        running, pending = ([item[1] for item in queue[f"queue_{part}"]] for part in ("running", "pending"))
        return running or pending if prompt in [*running, *pending] else []

    def stop(self, prompt: str) -> None:
        """Cancel a graph, whether it is running or waiting."""
        self._request("POST", "/queue", json={"delete": [prompt]})
        self._request("POST", "/interrupt", json={"prompt_id": prompt})

    def evaluation(self, name: str) -> list[dict]:
        """The results files of an evaluation so far: file, images, header."""
        return self._json("GET", "/attractor/evaluation", params={"name": name})["results"]

    def steps_done(self, run: str) -> int:
        """Steps of a training so far."""
        return int(self._json("GET", "/attractor/run", params={"name": run}).get("step") or 0)


class Silent(Lost):
    """No answer in time. One that computes may be too busy to give one, so a single one of these is not the end."""


def _refusal(answer: requests.Response) -> str:
    """What a server says of a graph that it does not take, in a line."""
    try:
        body = answer.json()
        errors = [
            f"{node['class_type']}: {error['message']}: {error['details']}"
            for node in body.get("node_errors", {}).values()
            for error in node["errors"]
        ]
        return "; ".join(errors) or str(body["error"]["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"status {answer.status_code}"
