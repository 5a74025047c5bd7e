"""What may join addresses, ports and protocol in the flow key."""

KEY_PARTS = ("vlan", "tunnel")


def key_parts(text: str) -> list[str]:
    """The parts that `text` names, in a fixed order. Raises ValueError if there is another name in it."""
    names = {name.strip() for name in text.split(",")} - {""}
    if names - set(KEY_PARTS):
        msg = f"allowed are {', '.join(KEY_PARTS)}, with a comma between them"
        raise ValueError(msg)
    return [part for part in KEY_PARTS if part in names]
