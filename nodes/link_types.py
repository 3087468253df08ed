"""Link types of the pack."""

from comfy_api.latest import io

PersonalizedTokenType = io.Custom("PERSONALIZED_TOKEN")
TrainingOptionsType = io.Custom("ATTRACTOR_TRAINING_OPTIONS")  # training.widgets.Options
Florence2Type = io.Custom("ATTRACTOR_FLORENCE2")
Sam2Type = io.Custom("ATTRACTOR_SAM2")
EvaluationEncodersType = io.Custom("EVALUATION_ENCODERS")
PdstDatasetType = io.Custom("PDST_DATASET")
PdstResultsType = io.Custom("PDST_RESULTS")
