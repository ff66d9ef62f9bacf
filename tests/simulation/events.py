"""What happens by itself: steps, calls, announcements, READs, words, time. Each takes the world and a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.core.request import RequestKey
from penstock.kv_transfer.messages import LeaseReturned
from penstock.kv_transfer.switchboard import Happened, Order
from simulation.device import Device
from simulation.pods import LEASE_SECONDS, Call, DecodePod, Pod, PrefillPod, Read, checksum
from simulation.routing import Client
from simulation.world import World

Event = tuple[Callable[[World, Any], None], Any]


def possible(world: World) -> list[Event]:
    """Everything that can come next; what is listed twice comes more often."""
    found: list[Event] = []
    decode, prefill = world.decode, world.prefill
    if world.num_to_ask:
        found.append((ask, None))
    if world.router.can_place and not decode.is_stopped:
        found += [(place, None)] * 2
    for client in world.router.placed:
        if client.stream:
            found.append((relay, client))
        elif client.is_cut:
            found.append((lose_stream, client))
    for pod in (decode, prefill):
        found += possible_steps(pod)
    for read in decode.reads.values():
        if read.is_delayed:
            found.append((resume, read))
        elif read.done < read.num_parts or not decode.is_stopped:
            found.append((read_on, read))
    if not decode.is_stopped:
        audible = [call for call in decode.calls.values() if call.sent or call.is_ended_there]
        found += [(resume if call.is_delayed else hear, call) for call in audible] * 2
        found += [(begin_fetch, order) for order in decode.link.orders] * 2
        found += [(cancel, number) for number in decode.link.cancelled]
        found += [(lose_peer, life) for life in world.lost_peers]
        found += [(send_note, note) for note in decode.returns]
        found += [(send_hang_up, call) for call in decode.hang_ups]
        if world.now - world.renewed_at > LEASE_SECONDS / 3:
            found += [(renew, None)] * 2
    if prefill.is_dead:
        found.append((restart_prefill, None))
    elif world.num_visits and not prefill.is_stopped:
        found.append((visit, None))
    found += [(end_visit, call) for call in world.visitors]
    if not prefill.is_stopped:
        found += [(take_call, call) for call in world.calls] * 2
        found += [(take_hang_up, each) for each in world.hang_ups]
        found += [(take_note, each) for each in world.notes]
        found += [(take_renewal, each) for each in world.renewals]
    if len(found) < 2 or world.random.random() < 0.3:
        found.append((pass_time, world.random.choice((0.2, 0.5, 2.5))))
    return found


def possible_steps(pod: Pod) -> list[Event]:
    """What the engine of a pod can do next."""
    if pod.is_stopped or pod.is_dead:
        return []
    found: list[Event] = []
    if pod.can_schedule:
        found += [(schedule, pod)] * (1 if pod.num_barren > 1 else 3)
    if pod.device.is_busy:
        found += [(resume, pod.device)] if pod.device.is_delayed else [(work, pod)] * 3
    if pod.results:
        found += [(apply, pod)] * 3
    if pod.link.inbox:
        found += [(wake, pod)] * 2
    return found


def ask(world: World, _: None) -> None:
    world.ask()


def place(world: World, _: None) -> None:
    world.place()


def relay(world: World, client: Client) -> None:
    handle = client.handle
    world.router.relay(client, world.now)
    if handle is not None and not client.has_place:  # the router closes the connection
        world.decode.abort(RequestKey(0, handle))


def lose_stream(world: World, client: Client) -> None:
    world.router.lose(client, world.now)


def visit(world: World, _: None) -> None:
    world.visit()


def end_visit(world: World, call: Call) -> None:
    """The other decode pod has what it wanted, or leaves."""
    if not call.target.is_stopped:
        world.visitors.remove(call)
        if not call.target.is_dead:
            call.target.hang_up(call.key)


def pass_time(world: World, seconds: float) -> None:
    """Time passes, and whoever runs notices."""
    world.now += seconds
    world.router.expire(world.now)
    if not world.prefill.is_stopped and not world.prefill.is_dead:
        world.prefill.wake()
    if not world.decode.is_stopped:
        world.decode.act(world.decode.puller.tick(world.now))


def schedule(world: World, pod: DecodePod | PrefillPod) -> None:
    pod.schedule()


def wake(world: World, pod: DecodePod | PrefillPod) -> None:
    pod.wake()


def work(world: World, pod: DecodePod | PrefillPod) -> None:
    pod.work(world.random)


def apply(world: World, pod: DecodePod | PrefillPod) -> None:
    applied = pod.apply()
    if isinstance(pod, PrefillPod):
        return
    columns = (applied.handles.tolist(), applied.token_ids.tolist(), applied.finish.tolist())
    for handle, token, finish in zip(*columns, strict=True):
        world.clients[handle].send_token(token, is_last=bool(finish))


# -- the decode pod's side of a fetch


def hear(world: World, call: Call) -> None:
    """An announcement arrives, or the end of the answer."""
    puller = world.decode.puller
    if call.sent:
        world.decode.act(puller.announced(call.number, call.sent.popleft(), world.now))
    else:
        del world.decode.calls[call.number]
        world.decode.act(puller.call_lost(call.number, "the answer ended"))


def resume(world: World, it: Call | Read | Device) -> None:
    """What was delayed goes on, mostly not at once."""
    it.is_delayed = world.random.random() < 0.9


def begin_fetch(world: World, order: Order) -> None:
    world.begin_fetch(order)


def cancel(world: World, number: int) -> None:
    """The connector's thread hears that nobody wants an arrival any more."""
    link = world.decode.link
    if any(order.number == number for order in link.orders):
        return  # orders come first
    link.cancelled.remove(number)
    world.decode.act(world.decode.puller.cancel(number))


def lose_peer(world: World, life: int) -> None:
    world.lost_peers.remove(life)
    world.decode.link.views = tuple(view for view in world.decode.link.views if view.peer != life)
    world.decode.act(world.decode.puller.peer_lost(life, "it died", is_death=True))


def send_note(world: World, note) -> None:
    world.decode.returns.remove(note)
    world.notes.append((world.decode.sources[note.peer], note.lease, note.epoch))


def send_hang_up(world: World, call: Call) -> None:
    world.decode.hang_ups.remove(call)
    world.hang_ups.append((call.target, call.key))


def renew(world: World, _: None) -> None:
    world.renewed_at = world.now
    for peer, leases in world.decode.puller.leases().items():
        world.renewals += [(world.decode.sources[peer], lease, epoch) for lease, epoch in leases]


def read_on(world: World, read: Read) -> None:
    """A READ copies some parts, or compares checksums, or reads the lease's word, each at a moment of its own."""
    if read.source.is_dead and world.random.random() < 0.7:  # else something was still in flight
        end_read(world, read, "the peer is gone")
    elif read.done < read.num_parts:
        if read.source.is_stopped and not world.is_one_sided:
            return
        for _ in range(min(world.random.randint(1, 3), read.num_parts - read.done)):
            copy_part(world, read)
    elif read.done == read.num_parts:
        memory = world.decode.device.memory
        wrong = [at for at, value in read.pull.checksums if checksum(memory[read.pull.local[at]]) != value]
        read.done += 1
        if wrong and world.settings.checks_checksums:
            end_read(world, read, "a checksum differs")
    elif read.source.is_dead:
        end_read(world, read, "the peer is gone")
    else:
        is_good = read.source.words.epochs[read.pull.lease] == read.pull.epoch
        end_read(world, read, "" if is_good or not world.settings.checks_epoch else "the lease is over")


def copy_part(world: World, read: Read) -> None:
    at, half = divmod(read.done, 2)
    source, target = read.source.device.memory[read.pull.remote[at]], world.decode.device.memory[read.pull.local[at]]
    target[half * 2 : half * 2 + 2] = source[half * 2 : half * 2 + 2]
    if read.is_damaged:
        target[half * 2] ^= 4
        read.is_damaged = False
    read.done += 1


def end_read(world: World, read: Read, why: str) -> None:
    """Nothing is written for it any more."""
    if not world.decode.is_stopped:
        del world.decode.reads[read.pull.pull]
        why = why or ("it was given up" if read.is_given_up else "")
        world.decode.act(world.decode.puller.pulled(read.pull.pull, why, world.now))


# -- the prefill pod's side


def take_call(world: World, call: Call) -> None:
    world.calls.remove(call)
    if world.decode.calls.get(call.number) is not call:
        return  # it was hung up before it arrived
    if call.target.is_dead:
        call.is_ended_there = True
    else:
        call.target.take(call, world.now)


def take_hang_up(world: World, each) -> None:
    world.hang_ups.remove(each)
    pod, key = each
    if not pod.is_dead:
        pod.hang_up(key)


def take_note(world: World, each) -> None:
    world.notes.remove(each)
    pod, lease, epoch = each
    if not pod.is_dead:
        pod.link.inbox.append(Happened(at=world.now, what=LeaseReturned(lease=lease, epoch=epoch)))


def take_renewal(world: World, each) -> None:
    world.renewals.remove(each)
    pod, lease, epoch = each
    pod.words.renew(lease, epoch, world.now)


def restart_prefill(world: World, _: None) -> None:
    world.prefill = world.build_prefill(world.prefill.life + 1)
    world.decode.know(world.prefill)
