"""Proof that an epoch delivered each sample as the order asks: the ledgers of all ranks beside what the order adds up to."""

from typing import NamedTuple

import torch
import torch.distributed as dist

from augment.loader import Ledger, Loader
from ingest.errors import TenchError

SIGN = 1 << 63


class Delivered(NamedTuple):
    """What all ranks together delivered, and how many samples were replaced since the run began (damage)."""

    ledger: Ledger
    num_replaced: int


def delivered(
    loader: Loader, first_step: int, device: torch.device, group: dist.ProcessGroup | None = None
) -> Delivered:
    """That of the epoch's steps from `first_step` on; every rank takes part. `group`: ranks that have all
    samples between them (all ranks, unless told).

    Raises TenchError if it is not what the order asks for, unless damaged samples were replaced.
    """
    own = loader.ledger
    # Two's complement wraps around as sums modulo 2**64 do.
    total = torch.tensor([own.count, (own.digest ^ SIGN) - SIGN, len(loader.damaged)], dtype=torch.int64, device=device)
    if dist.is_initialized():
        dist.all_reduce(total, group=group)
    count, digest, num_replaced = total.tolist()
    found, expected = Ledger(count, digest % (1 << 64)), loader.expected_ledger(first_step)
    if found.count != expected.count or (found != expected and not num_replaced):
        raise TenchError(
            f"from step {first_step} of the epoch on {found.count:,} samples (digest {found.digest:016x}) were delivered, "
            f"the order asks for {expected.count:,} ({expected.digest:016x}): samples were lost, repeated or changed on "
            "the way; do not trust this epoch, resume from the checkpoint before it"
        )
    return Delivered(found, num_replaced)
