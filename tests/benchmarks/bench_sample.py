"""Sampling with a NeTI token against a plain prompt; `dev.py bench sample [--steps 20] [--size full] [--repeats 3] [--cpu]`.

The host's sampler on the same model, sizes and seeds. The first image with a token encodes the prompt at each of the schedule's
times and layers; from the second on these contexts are there. Budgets (DESIGN section 10): 1.25 x and 1.05 x.
"""

import sys

from sides import makers, measure, options, start_host, write


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    arguments = parser.parse_args()
    start_host(arguments.cpu)
    import comfy.model_management as mm
    import comfy.sample
    import torch

    from attractor.nodes.host.payload import AppliedToken
    from attractor.nodes.host.personalized_clip import PersonalizedCLIP
    from attractor.nodes.host.personalized_model import personalize_model
    from attractor.trainer.mapper import NeTIMapper

    full = arguments.size == "full"
    model, clip = (make() for make in makers(arguments.size))
    side = 64 if full else 16
    with torch.inference_mode():
        token = AppliedToken("<bench>", NeTIMapper(768, norm_scale=0.4, seed=0).train(False))
        with_token, personal = PersonalizedCLIP.with_token(clip, token), personalize_model(model)
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))

        def encode(encoder, text: str) -> list:
            return encoder.encode_from_tokens_scheduled(encoder.tokenize(text))

        def sample(patcher, positive: list) -> torch.Tensor:
            latents = torch.zeros(1, 4, side, side)
            noise = comfy.sample.prepare_noise(latents, 0)
            settings = (arguments.steps, 7.0, "euler", "normal")
            return comfy.sample.sample(patcher, noise, *settings, positive, negative, latents, disable_pbar=True, seed=0)

        prompt = "a photo of a {} on the beach at sunset"
        plain, kept = encode(clip, prompt.format("cat")), encode(with_token, prompt.format("<bench>"))
        if not arguments.only:
            sample(personal, kept)

        def inferring(run):
            def side_run() -> None:
                with torch.inference_mode():
                    run()

            return side_run

        sides = {
            "a plain prompt": inferring(lambda: sample(model, plain)),
            "with a token, from the second image on": inferring(lambda: sample(personal, kept)),
            "with a token, the first image": inferring(lambda: sample(personal, encode(with_token, prompt.format("<bench>")))),
        }
        rows = measure(f"an image of {arguments.steps} steps", sides, arguments)
    write(f"sample_{arguments.size}", rows, {"device": mm.get_torch_device_name(mm.get_torch_device())})
    return 0


if __name__ == "__main__":
    sys.exit(main())
