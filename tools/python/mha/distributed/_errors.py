# SPDX-License-Identifier: Apache-2.0
"""What fails between ranks."""

from __future__ import annotations


class RankError(RuntimeError):
    """A rank died, did not answer within the timeout, or failed in a call that all ranks make.

    rank: the rank that raises this. peer: the rank that is the cause as far as this one can see. step: what they were
    exchanging. timeout: in seconds. The text has all four.

    Afterwards the `Ranks` and every `SplitCache` on it refuse further calls, because messages may be missing or half sent.
    """

    def __init__(self, rank: int, peer: int, step: str, timeout: float, reason: str) -> None:
        super().__init__(f"rank {rank}, step {step!r}, timeout {timeout:g} s: {reason}")
        self.rank, self.peer, self.step, self.timeout = rank, peer, step, timeout


class MismatchError(RankError):
    """The ranks called with different arguments, or one of them refused its own.

    Every rank raises an error in the same call, and no rank has changed anything. So the objects stay usable.
    """
