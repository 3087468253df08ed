"""Link types of the pack."""

from comfy_api.latest import io

PersonalizedTokenType = io.Custom("PERSONALIZED_TOKEN")
