"""Stub."""
def how_to_install(name: str) -> str | None:
    return None
