"""What goes wrong: pods die and stop, calls break, READs are damaged and given up, words are lost, repeated or late."""

from __future__ import annotations

from penstock.core.request import RequestKey
from penstock.internal.frames import FrameKind
from simulation.device import Device
from simulation.events import Event, pass_time, take_hang_up
from simulation.pods import Call, DecodePod, PrefillPod, Read
from simulation.routing import Client
from simulation.world import World


def possible(world: World) -> list[Event]:
    """Everything that can go wrong next."""
    decode, prefill = world.decode, world.prefill
    found: list[Event] = [(pass_time, 4.0), (pass_time, 11.0), (kill_decode, None), (kill_engine, None)]
    if not prefill.is_dead:
        found += [(kill_prefill, None), (kill_front_end, None)]
    for pod in (decode, prefill):
        found += [(go_on, pod)] * 3 if pod.is_stopped else [(stop, pod)]
        if pod.device.is_busy and not pod.device.is_delayed:
            found += [(delay, pod.device)] * 4
    found += [(act, call) for call in decode.calls.values() for act in (break_call, cut_off)]
    found += [(delay, call) for call in decode.calls.values() if not call.is_delayed] * 2
    found += [(repeat_announcement, call) for call in decode.calls.values() if call.sent]
    for read in decode.reads.values():
        found.append((give_up_read, read))
        if read.done < read.num_parts and world.checksum_share == 1:  # a sample need not show it
            found.append((damage_read, read))
        if not read.is_delayed:
            found += [(delay, read)] * 2
    for note in world.notes:
        found += [(repeat_note, note), (drop_note, note)]
    found += [(drop_renewal, each) for each in world.renewals]
    found += [(abort, client) for client in world.router.open]
    found += [(move, client) for client in world.router.placed if not client.is_cut]
    return found


def kill_prefill(world: World, _: None) -> None:
    """The prefill pod dies; of what it has said, any beginning arrives."""
    pod = world.prefill
    pod.is_dead, pod.is_stopped = True, False
    for call in world.decode.calls.values():
        if call.target is pod:
            call.is_ended_there = True
            for _ in range(world.random.randint(0, len(call.sent))):
                call.sent.pop()
    pod.calls.clear()
    world.lost_peers.append(pod.life)


def kill_front_end(world: World, _: None) -> None:
    """The prefill pod's front-end dies: its calls break, and the engine ends their leases at once."""
    pod = world.prefill
    for call in pod.calls.values():
        call.is_ended_there = True
    pod.calls.clear()
    pod.scheduler.abort_client(0)
    pod.transfers.finished_client(0)


def kill_decode(world: World, _: None) -> None:
    """The decode pod dies; of what it has sent, any beginning arrives, and another pod takes its place."""
    for client in world.router.placed:
        del client.stream[world.random.randint(0, len(client.stream)) :]
        client.is_cut = True
    lose_engine(world)


def kill_engine(world: World, _: None) -> None:
    """Only the engine dies: the front-end says so to the router, and tells a new one all that is not over."""
    lose_engine(world)
    for client in world.router.placed:
        if not client.is_cut and client.produced != client.told.answer:
            client.send(FrameKind.DEATH)
            world.tell_engine(client)


def lose_engine(world: World) -> None:
    old = world.decode
    world.hang_ups += [(call.target, call.key) for call in [*old.calls.values(), *old.hang_ups]]
    world.lost_peers.clear()
    world.decode = world.build_decode()


def move(world: World, client: Client) -> None:
    """The decode pod gives a request up, as it does when it is drained."""
    if world.decode.is_stopped or client.produced == client.told.answer:
        return
    world.decode.abort(RequestKey(0, client.handle))
    client.send(FrameKind.MOVED)
    client.is_cut = True


def stop(world: World, pod: DecodePod | PrefillPod) -> None:
    pod.is_stopped = not pod.is_dead


def go_on(world: World, pod: DecodePod | PrefillPod) -> None:
    pod.is_stopped = False


def break_call(world: World, call: Call) -> None:
    """The connection breaks: neither side hears the rest, and each notices when it does."""
    call.sent.clear()
    call.is_ended_there = True
    world.hang_ups.append((call.target, call.key))


def cut_off(world: World, call: Call) -> None:
    """The link is down for a while, and the prefill pod notices first."""
    break_call(world, call)
    call.is_delayed = True
    for read in world.decode.reads.values():
        read.is_delayed = True
    if not call.target.is_stopped:
        take_hang_up(world, world.hang_ups[-1])


def repeat_announcement(world: World, call: Call) -> None:
    """The same announcement twice."""
    call.sent.appendleft(call.sent[0])


def give_up_read(world: World, read: Read) -> None:
    """The mover loses patience with a READ that may still write."""
    if not world.decode.is_stopped and not read.is_given_up:
        read.is_given_up = True
        world.decode.act(world.decode.puller.pulled(read.pull.pull, "too slow", world.now, is_over=False))


def delay(world: World, it: Call | Read | Device) -> None:
    """The link carries nothing of it for a while, or the device does nothing."""
    it.is_delayed = True


def damage_read(world: World, read: Read) -> None:
    read.is_damaged = True


def repeat_note(world: World, note) -> None:
    world.notes.append(note)


def drop_note(world: World, note) -> None:
    world.notes.remove(note)


def drop_renewal(world: World, each) -> None:
    world.renewals.remove(each)


def abort(world: World, client: Client) -> None:
    """A client leaves."""
    if world.decode.is_stopped:
        return
    if client.has_place and not client.is_cut:
        world.decode.abort(RequestKey(0, client.handle))
    world.router.leave(client)
