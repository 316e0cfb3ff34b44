"""Numbers with their nouns, for sentences that people read."""


def counted(number: int, noun: str) -> str:
    """`1 shard`, `1,024 shards`, `2 classes`: a number and its noun, which is given in the singular."""
    many = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"
