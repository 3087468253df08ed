"""Link types of the pack, each with the class of what travels on it."""

from comfy_api.latest import io

PersonalizedTokenType = io.Custom("PERSONALIZED_TOKEN")  # trainer.concept.PersonalizedToken
TrainingOptionsType = io.Custom("ATTRACTOR_TRAINING_OPTIONS")  # training.widgets.Options
Florence2Type = io.Custom("ATTRACTOR_FLORENCE2")  # masking.florence.Florence2
Sam2Type = io.Custom("ATTRACTOR_SAM2")  # masking.sam.Sam2
EvaluationEncodersType = io.Custom("EVALUATION_ENCODERS")  # evaluation.encoders.EvaluationEncoders
EvaluateOptionsType = io.Custom("PDST_EVALUATE_OPTIONS")  # evaluation.options.EvaluateOptions
PdstDatasetType = io.Custom("PDST_DATASET")  # evaluation.pdst.Dataset
PdstPlanType = io.Custom("PDST_PLAN")  # evaluation.own_graph.Plan
PdstResultsType = io.Custom("PDST_RESULTS")  # tuple[str, ...]: folders that evaluation.results.read_results reads
