"""Whether results of two workers belong together: the same models, encoders and pack."""

import json

WHAT = {"model": "MODEL", "text encoder": "CLIP", "vae": "VAE"}


class Reference:
    """What the first results were made with; those that do not agree are refused.

    headers: of results that are there already.
    """

    def __init__(self, headers: list[dict]):
        self._identity: dict[str, tuple[str, str]] = {}  # what -> hash, whose
        for header in headers:
            self.unlike(header, "the results in the folder")

    def unlike(self, header: dict, whose: str) -> str:
        """What differs from the others, in a sentence; empty if nothing does, and then it counts as a reference too."""
        found = {
            **{_key(name, header): value for name, value in header["identity"].items()},
            **{f"encoder {name}": json.dumps(value, sort_keys=True) for name, value in header["encoders"].items()},
            "pack": header.get("made_with", {}).get("pack", "of an older version"),
        }
        lines = []
        for name, value in found.items():
            known, of = self._identity.get(name, (value, whose))
            if known != value:
                shown = f" ({value} instead of {known})" if len(value + known) < 80 else ""
                lines.append(f"{WHAT.get(name, name)} is another than that of {of}{shown}")
        if not lines:
            for name, value in found.items():
                self._identity.setdefault(name, (value, whose))
        return "; ".join(lines)

    def unlike_file(self, data: bytes, whose: str) -> str:
        return self.unlike(json.loads(data.split(b"\n", 1)[0]), whose)


def _key(name: str, header: dict) -> str:
    """Of a part of an identity: a token's belongs to its entry."""
    return f"token of {header['entry']}" if name == "token" else name
