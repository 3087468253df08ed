"""Everything that knows ComfyUI: thin V3 nodes over `trainer`, and `host`, the adapter to its internals."""

from comfy_api.latest import ComfyExtension, io

from .evaluation import NODES as EVALUATION
from .evaluation.evaluation_state import evaluation_state
from .host import folders
from .host.web import serve_page, serve_record
from .masking import NODES as MASKING
from .nodes_checkpoints import LoadTokenCheckpoints
from .nodes_mixing import MixPersonalizedTokens
from .nodes_tokens import ApplyPersonalizedToken, LoadNeTIMapper, SavePersonalizedToken
from .training import NODES as TRAINING
from .training.run_state import run_state


class AttractorExtension(ComfyExtension):
    """The pack's nodes."""

    async def on_load(self) -> None:
        folders.register()
        serve_page("/attractor/report", folders.report_page)
        serve_record("/attractor/run", run_state)
        serve_record("/attractor/evaluation", evaluation_state)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            *TRAINING,
            LoadNeTIMapper,
            ApplyPersonalizedToken,
            SavePersonalizedToken,
            LoadTokenCheckpoints,
            MixPersonalizedTokens,
            *MASKING,
            *EVALUATION,
        ]
