"""NIXL, as far as Penstock uses it: one agent, plain errors, and READs that can be asked whether they are over.

No progress thread: NIXL's own spins on a core (its Python interface offers no delay), and serving a TCP peer from our
thread was 1.6 times as fast (`poll` moves everything on). NIXL is imported only where it is needed: it is optional, and
an agent takes half a second to start.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import PenstockError
from penstock.kv_transfer.kv_blocks import HOST, Place

LOCAL = "NIXL_INIT_AGENT"  # NIXL's name for this side
GPU_MEMORY = (  # of which NIXL says only that it failed
    "register the GPU's memory; it needs nixl-cu12 or nixl-cu13, whichever has the CUDA of torch, the driver's "
    "libcuda.so.1 and libnvidia-ml.so.1, and cuda in UCX_TLS if that is set"
)


class NixlError(PenstockError):
    """NIXL is absent or refused something; the message is for a person."""


def import_nixl() -> ModuleType:
    """The library. Raises `NixlError` that says how to get it."""
    try:
        library = importlib.import_module("nixl")
    except ImportError as error:
        raise NixlError(f"moving KV between pods needs NIXL: pip install 'penstock[nixl]' ({error})") from None
    if not hasattr(library, "nixl_agent"):
        raise NixlError("the module nixl found here is not NVIDIA's: pip install 'penstock[nixl]'")
    return library


class Read:
    """One READ. The memory that it fills belongs to it until `poll` is true."""

    def __init__(self, agent: NixlAgent, handle: Any) -> None:
        self.why = ""  # it did not go well
        self.is_over = False
        self._agent, self._handle = agent, handle

    def poll(self) -> bool:
        """True once nothing of it moves any more, well or not."""
        if not self.is_over:
            self._agent.check(self)
        return self.is_over

    def end(self, why: str = "") -> None:
        """Give its resources back."""
        self.why, self.is_over, self._handle = why, True, None

    @property
    def handle(self) -> Any:
        """NIXL's; None when it is over."""
        return self._handle


class NixlAgent:
    """One agent and what it registered. Everything that NIXL raises comes out as `NixlError`."""

    def __init__(self, library: ModuleType, name: str) -> None:
        self.name, self._library = name, library
        raised = [each for each in vars(library).values() if isinstance(each, type) and issubclass(each, Exception)]
        self._errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError, OSError, *raised)
        self._reads: set[Read] = set()
        with self._plain("start"):
            self._nixl: Any = library.nixl_agent(name, library.nixl_agent_config(enable_prog_thread=False))
        if not self._nixl.backends:
            raise NixlError("NIXL has no UCX plugin here: pip install --force-reinstall nixl")

    def register(self, address: int, num_bytes: int, place: Place = HOST) -> None:
        """Let this memory be filled by READs of ours, and be READ by peers that know our metadata."""
        with self._plain("register memory" if place == HOST else GPU_MEMORY):
            self._nixl.register_memory([(address, num_bytes, place.device, "")], place.kind)

    def metadata(self) -> bytes:
        """What a peer needs to READ the registered memory."""
        with self._plain("describe itself"):
            return bytes(self._nixl.get_agent_metadata())

    def list_parts(
        self, agent: str, address: int, num_bytes: int, *, count: int, stride: int, place: Place = HOST
    ) -> Any:
        """A list of `count` parts of registered memory, `stride` bytes apart, of ours (`LOCAL`) or of a peer."""
        parts = np.zeros((count, 3), dtype=np.uint64)  # address, length, device
        parts[:, 0] = np.uint64(address) + np.arange(count, dtype=np.uint64) * np.uint64(stride)
        parts[:, 1], parts[:, 2] = num_bytes, place.device
        with self._plain("list memory"):
            return self._nixl.prep_xfer_dlist(agent, parts, place.kind)

    def add(self, metadata: bytes) -> str:
        """Get to know a peer; returns its name."""
        with self._plain("load a peer's metadata"):
            name: bytes | str = self._nixl.add_remote_agent(metadata)
            return name.decode(errors="replace") if isinstance(name, bytes) else name

    def remove(self, agent: str, *lists: Any) -> None:
        """Forget a peer and lists of its memory. READs from it must be over: NIXL would go on with them unseen."""
        for each in lists:
            with suppress(*self._errors):
                self._nixl.release_dlist_handle(each)
        with suppress(*self._errors):
            self._nixl.remove_remote_agent(agent)

    def read(self, local: Any, local_parts: NDArray[np.int32], remote: Any, remote_parts: NDArray[np.int32]) -> Read:
        """Begin a READ. It may be over already: by shared memory this call does the copying."""
        with self._plain("prepare a READ"):
            handle = self._nixl.make_prepped_xfer("READ", local, local_parts, remote, remote_parts)
        read = Read(self, handle)
        self._reads.add(read)
        self._settle(read, self._nixl.transfer)
        return read

    def check(self, read: Read) -> None:
        """Move everything on and see how this READ is."""
        self._settle(read, self._nixl.check_xfer_state)

    def poll(self) -> list[bytes]:
        """Move everything on, also what peers want of us; returns notifications that came."""
        with self._plain("look for notifications"):
            news: dict[str, list[bytes]] = self._nixl.get_new_notifs()
        return [bytes(message) for messages in news.values() for message in messages]

    def notify(self, agent: str, message: bytes) -> None:
        """Send a peer a notification."""
        with self._plain("notify a peer"):
            self._nixl.send_notif(agent, message)

    def successor(self) -> NixlAgent:
        """Another one that has nothing yet, under another name."""
        stem, _, number = self.name.rpartition("/")
        return NixlAgent(self._library, f"{stem}/{int(number) + 1}" if stem else f"{self.name}/1")

    def close(self) -> None:
        """Cut every connection at once, so that no READ writes any more. A peer that was serving one may break."""
        for read in list(self._reads):
            self._end(read, "the connection was cut")
        self._nixl = None  # the last reference: NIXL closes its sockets here

    def _settle(self, read: Read, ask: Any) -> None:
        try:
            state = ask(read.handle)
        except self._errors as error:
            self._end(read, _sentence("READ", error))
        else:
            if state != "PROC":
                self._end(read, "" if state == "DONE" else "NIXL failed to READ")

    def _end(self, read: Read, why: str) -> None:
        with suppress(*self._errors):
            self._nixl.release_xfer_handle(read.handle)
        self._reads.discard(read)
        read.end(why)

    @contextmanager
    def _plain(self, what: str) -> Iterator[None]:
        try:
            yield
        except NixlError:
            raise
        except self._errors as error:
            raise NixlError(_sentence(what, error)) from None


def _sentence(what: str, error: Exception) -> str:
    return f"NIXL failed to {what}: {type(error).__name__.removeprefix('nixl')} {error}".rstrip()
