"""Training Options: every setting that most people leave as it is."""

from comfy_api.latest import io

from ...trainer.concept import PersonalizedToken
from ..evaluation.encoders import EvaluationEncoders
from ..evaluation.pdst import Dataset
from ..link_types import EvaluationEncodersType, PdstDatasetType, PersonalizedTokenType, TrainingOptionsType
from .widgets import Options, settings_of, widget


class TrainingOptions(io.ComfyNode):
    """The settings beyond those on Train Attractor Embedding, as one wire."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorTrainingOptions",
            display_name="Training Options",
            category="attractor",
            description="More settings for Train Attractor Embedding: losses, attractors and mapper, memory, held-out scores, "
            "samples and checkpoints. Left unwired, the training node uses the values that this node starts with.",
            search_aliases=[
                *("textual inversion settings", "embedding training settings", "learning rate", "loss weights"),
                *("contrast schedule", "tau", "micro batch", "memory"),
            ],
            inputs=[
                PdstDatasetType.Input(
                    "dataset",
                    optional=True,
                    tooltip="From Load PDST Dataset, of this one subject: its test photos, which training never sees, tell "
                    "which step is best and when overfitting begins.",
                ),
                EvaluationEncodersType.Input(
                    "encoders",
                    optional=True,
                    tooltip="From Load Evaluation Encoders: what scores samples against the test photos. Without it a data "
                    "set gives the loss on its photos only.",
                ),
                PersonalizedTokenType.Input(
                    "start_from",
                    optional=True,
                    tooltip="A token to start from instead of the super-category's word, of the kind that the method learns: "
                    "from Load NeTI Mapper, which reads every such file. Its attractors are not taken.",
                ),
                *(widget(name, optional=True) for name in settings_of(main=False)),
            ],
            outputs=[TrainingOptionsType.Output("options", tooltip="Wire to Train Attractor Embedding.")],
        )

    @classmethod
    def execute(
        cls,
        dataset: Dataset | None = None,
        encoders: EvaluationEncoders | None = None,
        start_from: PersonalizedToken | None = None,
        **settings: object,
    ) -> io.NodeOutput:
        return io.NodeOutput(Options(settings, dataset, encoders, start_from))
