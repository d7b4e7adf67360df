"""What every tool of `probes` returns on a toy, on the tiny bridge and on SmolLM2: checksums of its numbers."""


def checksums() -> dict[str, str]:
    """Name of every number or array -> checksum."""
    return {}
