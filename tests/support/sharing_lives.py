"""Pods that share KV over fake devices: real engine cores, links and front-ends; scripted workers and HTTP servers."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
import numpy as np

from penstock.config import TransferConfig
from penstock.engine.core import EngineCore
from penstock.engine.core_process import CoreServer
from penstock.engine.messages import EngineReady
from penstock.engine.notice import tell_engine_down
from penstock.engine.sharing import LEASE_FILE, Identity, Sharing
from penstock.kv_transfer.lease_table import LeaseTable
from penstock.sampling.params import SamplingParams
from support.fake_device import AsyncFakeDevice
from support.lives import BLOCK_SIZE, CONTEXT, NUM_BLOCKS, SECONDS, build_launch, build_llm
from support.scripted_peer import FINGERPRINT, ScriptedPeer
from support.scripted_worker import BLOCK_BYTES, Fabric, ScriptedWorker

SESSIONS = itertools.count(1)


@dataclass(frozen=True)
class Memory:
    num_blocks: int = NUM_BLOCKS
    block_bytes: int = BLOCK_BYTES


class SharingLife:
    """One life of an engine core that shares KV, on a thread."""

    def __init__(self, launch, fabric: Fabric, epoch: int = 1, *, step_time: float = 0.002, num_blocks=NUM_BLOCKS):
        self.launch, self.epoch = launch, epoch
        self.identity = Identity(epoch=epoch, session=f"session-{next(SESSIONS)}", fingerprint=FINGERPRINT)
        self.sharing = Sharing(launch, self.identity)
        self.table = LeaseTable(launch.run_path / LEASE_FILE)
        self.device, self.worker = self.open_device(fabric, num_blocks, step_time)
        self.device.transfer = self.worker.connection
        memory = Memory(num_blocks)
        self.core = EngineCore(launch.config, self.device, memory, CONTEXT, self.sharing.attach(self.device, memory))
        ready = EngineReady(
            epoch=epoch,
            num_blocks=num_blocks - 1,
            block_size=BLOCK_SIZE,
            max_model_len=CONTEXT,
            session=self.identity.session,
            fingerprint=FINGERPRINT,
            endpoint=self.sharing.endpoint,
        )
        self.server = CoreServer(self.core, launch, ready)
        self.sharing.start(self.server.wake)
        self.failure: BaseException | None = None
        self._is_ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def open_device(self, fabric: Fabric, num_blocks: int, step_time: float):
        """What runs steps, and what moves blocks."""
        device = AsyncFakeDevice(num_blocks, BLOCK_SIZE, 2, step_time)
        return device, ScriptedWorker(fabric, device, self.table, self.identity.session, FINGERPRINT)

    def _run(self) -> None:
        try:
            self.server.run()
        except BaseException as error:  # shown where the life ends
            self.failure = error

    def end(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            self.server.stop()
            self._thread.join(SECONDS)
            self.sharing.close()
            self.server.close()
            self.device.close()
            self.worker.close()
            failure, self.failure = self.failure, None
            if failure is not None:
                raise failure

    def die(self) -> None:
        """Die, and have the front-end told, as the supervisor does."""
        self.end()
        tell_engine_down([self.launch.client_address(0)], self.epoch)


class SharingPod:
    """An engine core and its front-end; for a prefill pod also its internal port."""

    def __init__(self, folder, fabric: Fabric, *, scheduler=None, life=SharingLife, parts=None, **transfer) -> None:
        """`parts`: of the configuration, instead of the usual ones."""
        folder.mkdir()
        launch = build_launch(folder, **(scheduler or {}))
        config = dataclasses.replace(
            launch.config,
            transfer=TransferConfig(**({"remote_prefill_min_tokens": 8, "kv_stall_seconds": 1.0} | transfer)),
            **(parts or {}),
        )
        self.launch = msgspec.structs.replace(launch, config=config)
        self.fabric, self._life = fabric, life
        self.llm = build_llm(self.launch)
        self.peer = ScriptedPeer()
        self.lives: list[SharingLife] = []

    @property
    def life(self) -> SharingLife:
        return self.lives[-1]

    @property
    def stats(self):
        return self.life.core.stats()

    def begin(self, **options) -> SharingLife:
        self.lives.append(self._life(self.launch, self.fabric, len(self.lives) + 1, **options))
        return self.life

    async def start(self, **options) -> None:
        self.begin(**options)
        self.llm.start()
        await self.llm.wait_ready()
        if self.launch.config.transfer.role == "prefill":
            self.peer.on_call = self.answer
            self.peer.endpoint_of = lambda: self.life.sharing.endpoint
            self.peer.fields = {"session": self.life.identity.session}
            self.peer.renew = self.renew
            await self.peer.start()

    async def answer(self, call, tell) -> None:
        """As the real internal port does."""
        [request] = self.llm.input.build(
            np.frombuffer(call.token_ids, dtype="<i4"),
            SamplingParams(max_tokens=1, ignore_eos=True, temperature=0.0, seed=0),
            request_id=call.request_id,
            root=call.root_hash,
            priority=call.priority,
        )
        lend = self.llm.lend(request, call.skip)
        try:
            async for announcements in lend:
                for announcement in announcements:
                    await tell(announcement)
        finally:
            await lend.aclose()

    def renew(self, renewal) -> None:
        for row, epoch in renewal.leases:
            self.life.table.renew(row, epoch, time.monotonic())

    async def stop(self) -> None:
        await self.peer.stop()
        self.llm.close()
        for life in self.lives:
            await asyncio.to_thread(life.end)

    async def until(self, condition) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Return when nothing is held any more, and check the books."""
        await self.until(lambda: not self.life.core.has_work and self.life.core.scheduler.tickets.num_blocks == 0)
        assert self.life.core.check_integrity() is None


@asynccontextmanager
async def pair_of_pods(folder, *, prefill=None, decode=None, scheduler=None, num_blocks=(NUM_BLOCKS,) * 2, **options):
    """A prefill pod, and a decode pod that knows it; `num_blocks` are of the two, `scheduler` is the first one's."""
    fabric = Fabric()
    async with AsyncExitStack() as stack:
        one = SharingPod(folder / "prefill", fabric, scheduler=scheduler, role="prefill", **(prefill or {}))
        stack.push_async_callback(one.stop)
        await one.start(num_blocks=num_blocks[0], **options)
        two = SharingPod(folder / "decode", fabric, role="decode", prefillers=one.peer.address, **(decode or {}))
        stack.push_async_callback(two.stop)
        await two.start(num_blocks=num_blocks[1], **options)
        await two.until(lambda: two.life.sharing._link.views)
        yield one, two
