"""A test-only custom-node pack: small models made in memory, so that graphs run in seconds on a CPU."""


async def comfy_entrypoint():
    from .extension import TestExtension

    return TestExtension()
