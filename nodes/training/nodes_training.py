"""Train Attractor Embedding: from photos and masks to a token."""

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...trainer.settings import ROWS, TrainingSettings
from ...trainer.token_file import load_token
from ..host.links import Clip, Model, Vae
from ..host.weights import with_weights
from ..link_types import PersonalizedTokenType, TrainingOptionsType
from ..pictures import as_images, as_masks, to_tensor
from .input_checks import Wired, check_inputs, widget_problems
from .session import train
from .widgets import Options, settings_of, widget


class TrainAttractorEmbedding(io.ComfyNode):
    """Learns a subject token from photos and masks, beside one background attractor per photo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorTrain",
            display_name="Train Attractor Embedding",
            category="attractor",
            description="Textual inversion for Stable Diffusion 1.5: trains an embedding, or a NeTI token, that personalises "
            "the model to a subject from about five photos and leaves their backgrounds out; beside them DreamBooth and Custom "
            "Diffusion, to compare with. Chart and samples appear here; Cancel keeps what was learnt and queueing again "
            "resumes.",
            search_aliases=[
                *("textual inversion", "train textual inversion", "train embedding", "train token", "neti", "SD1.5 training"),
                *("personalize", "personalise", "dreambooth", "custom diffusion", "lora training", "learn subject"),
            ],
            is_output_node=True,
            is_input_list=True,  # photos of differing sizes come as a list, and are one run
            hidden=[io.Hidden.unique_id],
            inputs=[*_wires(), *_widgets()],
            outputs=[
                PersonalizedTokenType.Output("token", tooltip="Wire to Apply Personalized Token."),
                io.Image.Output("loss_chart", tooltip="The chart as a picture."),
                io.LossMap.Output("loss_map", tooltip="The fixed-batch loss, for Plot Loss Graph."),
                io.String.Output("path", tooltip="The token's file, under output/neti."),
                PersonalizedTokenType.Output(
                    "best_token",
                    tooltip="The token of the step with the best held-out scores; the last one if no data set is wired.",
                ),
                io.Image.Output(
                    "overfitting_curve",
                    tooltip="Held-out scores, and the flattering ones on the training photos, over the steps (the paper's "
                    "Fig. 1).",
                ),
                io.Model.Output(
                    "tuned_model",
                    tooltip="With dreambooth, dreambooth_lora and custom_diffusion: MODEL with the learnt weights, for stock "
                    "nodes such as Save Checkpoint; prompts then say the rare token and the class themselves. With the other "
                    "methods: MODEL as it came.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        name: list | None = None,
        placeholder: list | None = None,
        method: list | None = None,
        batch_size: list | None = None,
        options: list | None = None,
    ) -> bool | str:
        """Every input comes as a list, and as (None,) if it is wired."""
        said = [(value or [None])[0] for value in (name, placeholder, method, batch_size)]
        return "\n".join(widget_problems(said[0], said[1], said[2], said[3], options_wired=options is not None)) or True

    @classmethod
    def execute(
        cls,
        model: list[Model],
        clip: list[Clip],
        vae: list[Vae],
        images: list[Tensor],
        name: list[str],
        resume: list[bool],
        masks: list[Tensor] | None = None,
        options: list[Options] | None = None,
        **settings: list,
    ) -> io.NodeOutput:
        more = options[0] if options else Options({})
        # The host runs nodes in inference mode, whose tensors autograd cannot use.
        with torch.inference_mode(False), torch.enable_grad():
            chosen = TrainingSettings.of(**more.settings, **{key: values[0] for key, values in settings.items()})
            photos = as_images(images), as_masks(masks)
            wired = Wired(model[0], clip[0], vae[0], *photos, more.dataset, more.encoders, more.start_from)
            check_inputs(wired, chosen, name[0].strip())
            run = train(wired, chosen, name[0].strip(), resume[0], cls.hidden.unique_id)
            token = run.token()
            best = load_token(run.best_path) if run.score_log.scores and run.best_path.exists() else token
            best.subject.requires_grad_(False)
        chart, curve = to_tensor(run.pictures.chart()), to_tensor(run.pictures.overfitting_curve())
        fixed = [value for value in run.trainer.curves["fixed"] if value == value]
        shown = [chart[0], curve[0]] if run.score_log.scores else chart
        pictures = ui.PreviewImage(shown, cls=cls).as_dict()
        return io.NodeOutput(
            *(token, chart, {"loss": fixed}, str(run.token_path), best, curve, with_weights(model[0], token.weights)),
            ui={**pictures, "text": [run.summary()]},
        )


def _wires() -> list:
    return [
        io.Model.Input(
            "model",
            tooltip="A Stable Diffusion 1.5 model (eps kind). It is not changed; LoRAs wired before are part of what the "
            "token is trained on.",
        ),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.Image.Input("images", tooltip="About five photos of the subject: a batch, or a list of differing sizes."),
        io.Mask.Input(
            "masks",
            optional=True,
            tooltip="One mask per photo, in order, 1 on the subject. Needed by the methods with attractor (+).",
        ),
        TrainingOptionsType.Input(
            "options",
            optional=True,
            tooltip="From Training Options: more settings, and a data set for held-out scores. Unwired: its defaults.",
        ),
    ]


def _widgets() -> list:
    return [
        io.String.Input(
            "name",
            default="my-subject",
            tooltip="Names the run's folder and token file under output/neti. The same name resumes.",
        ),
        io.Boolean.Input(
            "resume",
            default=True,
            tooltip="Continue where a run of this name stopped. Off: start over and replace it.",
        ),
        # Graphs that were made before there was a setting leave it out.
        *(widget(name, optional=ROWS[name].before is not None) for name in settings_of(main=True)),
    ]
