"""Numbers with their nouns, for sentences that people read."""


def counted(number: int, noun: str) -> str:
    """`1 shard`, `1,024 shards`, `2 classes`: a number and its noun, which is given in the singular."""
    many = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def size_words(size: int) -> str:
    """`812 bytes`, `34.1 kB`, `5.2 MB`, `12.3 GB`."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size} bytes"


def first_line(error: BaseException) -> str:
    """What a library's error says, without the details that follow below; its type if it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__
