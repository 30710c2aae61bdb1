# SPDX-License-Identifier: Apache-2.0
"""Messages between the ranks of one group of torch.distributed: frames with a header that all ranks compare, then data.

Gloo ends the process where a message is longer than the buffer that waits for it. So the first message of a call, a frame,
has a greatest size that does not depend on the arguments. It has a header, and as much data as fits. A rank that has seen
equal headers from all ranks knows all sizes, and only then what is longer than a frame travels.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from copy import copy
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist

from ._errors import MismatchError, RankError
from ._traffic import HEADER_BYTES, Traffic, frame_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

_HEADER = struct.Struct("<QqQq16s")  # magic, call number, refused, value, digest
_MAGIC = 0x31746C7073616D68
_TEXT_BYTES = 512
# Tags of the steps: a rank that is ahead may send the next call's frame while another still receives outputs.
_TAGS = {"header": 0x6D00, "partials": 0x6D01, "outputs": 0x6D02, "texts": 0x6D03}


class Ranks:
    """The ranks of one group, which make the same calls in the same order.

    group: a group of torch.distributed with gloo for the CPU; None: the default group. It may be shared with other
        traffic, but gloo closes a group's connections at the first failure: give a group of its own to what must go on.
    timeout: seconds that a call waits for the other ranks, in all its steps together. It must be longer than a rank may
        be behind another.

    Use it from one thread at a time.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, timeout: float = 30.0) -> None:
        if not 0 < timeout <= 1e6:
            raise ValueError(f"timeout is {timeout}, but must be seconds above 0, at most 1e6")
        if not dist.is_initialized():
            raise ValueError("torch.distributed is not initialised: call torch.distributed.init_process_group('gloo', ...) first")
        self.group = group if group is not None else dist.distributed_c10d._get_default_group()
        config = str(dist.get_backend_config(self.group))
        if "cpu:gloo" not in config:
            raise ValueError(f"the group has the backend {config}, but must have gloo for the CPU")
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.timeout = float(timeout)
        self.peers = [peer for peer in range(self.size) if peer != self.rank]
        self.frame_bytes = frame_bytes(self.size)
        self._frames = {peer: torch.empty(HEADER_BYTES + self.frame_bytes, dtype=torch.uint8) for peer in self.peers}
        self._traffic = Traffic()
        self._calls = self._caches = 0
        self._failure: RankError | None = None
        self._pending: list[Any] = []  # what gloo may still write to after a failure

    @property
    def traffic(self) -> Traffic:
        """What this rank exchanged so far (a copy: subtract an earlier one)."""
        return copy(self._traffic)

    @property
    def failure(self) -> RankError | None:
        """The error after which all calls are refused."""
        return self._failure

    def next_cache(self) -> int:
        """A number that is the same on all ranks, if they make their caches in the same order."""
        self._caches += 1
        return self._caches

    def call(self, name: str) -> Call:
        """Begins a call that all ranks make, and posts the receives of its frames."""
        if self._failure is not None:
            raise RankError(self.rank, self._failure.peer, name, self.timeout, f"refused, because an earlier call failed ({self._failure})")
        self._calls += 1
        return Call(self, name, self._calls)

    def __repr__(self) -> str:
        return f"mha.distributed.Ranks(rank={self.rank}, size={self.size}, timeout={self.timeout:g})"


def message(data_bytes: int) -> torch.Tensor:
    """A buffer for a frame: room for the header, and the data behind it."""
    return torch.empty(HEADER_BYTES + data_bytes, dtype=torch.uint8)


class Call:
    """One call that all ranks make, as a context manager: agree() once, then share() if wanted, then finish().

    An exception before agree() is one that this rank's arguments cause: the other ranks are told, and raise MismatchError. If
    the call is left in another way, the ranks are no longer in step, and `Ranks` refuses further calls.
    """

    def __init__(self, ranks: Ranks, name: str, number: int) -> None:
        self._ranks, self.name, self._number = ranks, name, number
        self._sent = self._in_step = False
        self._deadline = 0.0
        self._receives = self._receive("header", ranks._frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ranks = self._ranks
        if isinstance(error, Exception) and not self._sent:
            self._refuse(error)
        elif error is not None and not self._in_step and ranks._failure is None:
            reason = f"this rank left the call: {type(error).__name__}: {error}"
            ranks._failure = RankError(ranks.rank, ranks.rank, self.name, ranks.timeout, reason)

    def agree(self, digest: bytes, text: str, value: int, messages: Sequence[torch.Tensor], sizes: Sequence[int]) -> Agreed:
        """Sends each rank its message of `messages`, and receives one from each, whose data are of `sizes`.

        digest, text: of the arguments, must be the same on all ranks: else MismatchError. value: any number, for the others.
        """
        headers = self._send_frames(_HEADER.pack(_MAGIC, self._number, 0, value, digest), messages)
        mine = headers[self._ranks.rank]
        if any((header[1], header[2], header[4]) != (mine[1], mine[2], mine[4]) for header in headers):
            self._raise_mismatch(headers, text)
        return Agreed([int(header[3]) for header in headers], self._rest(messages, sizes))

    def _refuse(self, error: Exception) -> None:
        """Tells the others that this rank does not take its arguments."""
        messages = [message(0)] * self._ranks.size
        self._send_frames(_HEADER.pack(_MAGIC, self._number, 1, 0, b""), messages)
        self._texts(f"refused its arguments: {type(error).__name__}: {error}")
        self._in_step = True

    def share(self, own: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
        """Gives every rank the bytes `own`; returns those of all ranks, which are of `sizes`."""
        ranks = self._ranks
        gathered = [torch.empty(size, dtype=torch.uint8) for size in sizes]
        gathered[ranks.rank] = own
        receives = self._receive("outputs", {peer: gathered[peer] for peer in ranks.peers if sizes[peer]})
        sends = self._send("outputs", {peer: own for peer in ranks.peers if own.numel()})
        self._wait_all("outputs", receives, sends)
        self._count_received(receives, sizes)
        return gathered

    def finish(self) -> None:
        """Marks the call as complete on this rank."""
        self._in_step = True
        self._ranks._traffic.calls += 1

    # --- frames

    def _send_frames(self, header: bytes, messages: Sequence[torch.Tensor]) -> list[Any]:
        ranks = self._ranks
        self._sent = True
        self._deadline = time.monotonic() + ranks.timeout
        packed = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        for peer in ranks.peers:
            messages[peer][: len(header)] = packed
        sends = self._send("header", {peer: messages[peer][: HEADER_BYTES + ranks.frame_bytes] for peer in ranks.peers})
        self._wait_all("header", self._receives, sends)
        headers: list[Any] = [_HEADER.unpack(header)] * ranks.size
        for peer in ranks.peers:
            headers[peer] = _HEADER.unpack(ranks._frames[peer][: _HEADER.size].numpy().tobytes())
            if headers[peer][0] != _MAGIC:
                self._fail(peer, "header", f"rank {peer} sent something that is no header of mha.distributed")
        return headers

    def _rest(self, messages: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        """The data of all ranks, whose beginning is in the frames."""
        ranks = self._ranks
        frame = ranks.frame_bytes
        self._count_received({peer: None for peer in ranks.peers}, [HEADER_BYTES + min(size, frame) for size in sizes])
        data = [messages[ranks.rank][HEADER_BYTES:]] * ranks.size
        longer = {}
        for peer in ranks.peers:
            first = ranks._frames[peer][HEADER_BYTES:]
            if sizes[peer] <= frame:
                data[peer] = first[: sizes[peer]]
            else:
                data[peer] = torch.empty(sizes[peer], dtype=torch.uint8)
                data[peer][:frame] = first
                longer[peer] = data[peer][frame:]
        receives = self._receive("partials", longer)
        rest = {peer: messages[peer][HEADER_BYTES + frame :] for peer in ranks.peers}
        self._wait_all("partials", receives, self._send("partials", {peer: part for peer, part in rest.items() if part.numel()}))
        self._count_received(receives, [size - frame for size in sizes])
        return data

    def _raise_mismatch(self, headers: Sequence[Any], text: str) -> NoReturn:
        ranks = self._ranks
        texts = self._texts(text)
        self._in_step = True
        mine = headers[ranks.rank]
        peer = next(r for r, header in enumerate(headers) if (header[1], header[2], header[4]) != (mine[1], mine[2], mine[4]))
        if headers[peer][2]:
            reason = f"rank {peer} {texts[peer]}"
        else:
            reason = f"the ranks differ: rank {peer} in call {headers[peer][1]}: {texts[peer]}; rank {ranks.rank} in call {mine[1]}: {text}"
        raise MismatchError(ranks.rank, peer, "header", ranks.timeout, reason)

    def _texts(self, text: str) -> list[str]:
        """Exchanges texts, as all ranks do that see unequal headers, or one that refuses."""
        ranks = self._ranks
        encoded = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
        own = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        theirs = [torch.empty(_TEXT_BYTES, dtype=torch.uint8) for _ in range(ranks.size)]
        theirs[ranks.rank] = own
        receives = self._receive("texts", {peer: theirs[peer] for peer in ranks.peers})
        self._wait_all("texts", receives, self._send("texts", dict.fromkeys(ranks.peers, own)))
        return [part.numpy().tobytes().rstrip(b"\0").decode("utf-8", "replace") for part in theirs]

    # --- messages

    def _receive(self, step: str, buffers: dict[int, torch.Tensor]) -> dict[int, Any]:
        return {peer: self._post(step, peer, dist.irecv, buffer) for peer, buffer in buffers.items()}

    def _send(self, step: str, buffers: dict[int, torch.Tensor]) -> dict[int, Any]:
        traffic = self._ranks._traffic
        traffic.messages_sent += len(buffers)
        traffic.bytes_sent += sum(buffer.numel() for buffer in buffers.values())
        return {peer: self._post(step, peer, dist.isend, buffer) for peer, buffer in buffers.items()}

    def _post(self, step: str, peer: int, function: Any, buffer: torch.Tensor) -> Any:
        ranks = self._ranks
        ranks._pending.append(buffer)
        group_peer = {"group_dst" if function is dist.isend else "group_src": peer}
        try:
            return function(buffer, group=ranks.group, tag=_TAGS[step], **group_peer)
        except RuntimeError as error:
            self._fail(peer, step, f"rank {peer} cannot be reached: {error}", error)

    def _wait_all(self, step: str, receives: dict[int, Any], sends: dict[int, Any]) -> None:
        ranks = self._ranks
        for works, what in ((receives, "from"), (sends, "to")):
            for peer, work in works.items():
                left = max(self._deadline - time.monotonic(), 0.001)  # 0 would wait without end
                try:
                    work.wait(timedelta(seconds=left))
                except RuntimeError as error:
                    reason = f"the connection to rank {peer} broke, because it ended or saw a failure itself"
                    if "timed out" in str(error).lower() or time.monotonic() >= self._deadline:
                        reason = f"no message {what} rank {peer} got through in time"
                    self._fail(peer, step, f"{reason} ({str(error).splitlines()[0]})", error)
        ranks._traffic.steps += bool(receives or sends)
        ranks._pending.clear()  # all that was posted so far is done

    def _count_received(self, peers: dict[int, Any], sizes: Sequence[int]) -> None:
        traffic = self._ranks._traffic
        traffic.messages_received += len(peers)
        traffic.bytes_received += sum(sizes[peer] for peer in peers)

    def _fail(self, peer: int, step: str, reason: str, cause: Exception | None = None) -> NoReturn:
        ranks = self._ranks
        ranks._failure = RankError(ranks.rank, peer, step, ranks.timeout, f"{self.name}: {reason}")
        raise ranks._failure from cause


class Agreed:
    """What a call received: `values` of all ranks, and the `data` that each sent to this one. Data in frames are valid until
    the next call."""

    def __init__(self, values: list[int], data: list[torch.Tensor]) -> None:
        self.values, self.data = values, data
