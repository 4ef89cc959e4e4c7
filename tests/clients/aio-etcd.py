"""The calls that aio-etcd's README shows."""
import asyncio

import aio_etcd as etcd
from aio_etcd.lock import Lock
from calls import HOST, PORT, run

LOOP = asyncio.new_event_loop()
CLIENT = None


def waits_for(test):
    """Makes a function of a coroutine; each has 15 s."""
    def call():
        LOOP.run_until_complete(asyncio.wait_for(test(), 15))
    call.__name__ = test.__name__
    return call


async def write_and_read():
    await CLIENT.write("/nodes/n1", 1)
    assert (await CLIENT.read("/nodes/n1")).value == "1"
    await CLIENT.write("/nodes/n2", 2, ttl=40)
    assert (await CLIENT.get("/nodes/n2")).ttl > 0


async def read_recursively():
    found = await CLIENT.read("/nodes", recursive=True)
    assert sorted(child.key for child in found.children) == ["/nodes/n1", "/nodes/n2"]


async def read_missing():
    try:
        await CLIENT.read("/invalid/path")
    except etcd.EtcdKeyNotFound:
        return
    raise AssertionError("found")


async def compare_and_swap():
    await CLIENT.write("/nodes/n2", 3, prevValue=2)
    await CLIENT.test_and_set("/nodes/n2", 4, 3)
    try:
        await CLIENT.write("/nodes/n2", 5, prevExist=False)
    except etcd.EtcdAlreadyExist:
        return
    raise AssertionError("written")


async def update():
    await CLIENT.write("/foo", "bar")
    result = await CLIENT.read("/foo")
    result.value += "bar"
    assert (await CLIENT.update(result)).value == "barbar"


async def watch():
    LOOP.call_later(0.3, lambda: asyncio.ensure_future(CLIENT.write("/nodes/n1", "seen")))
    assert (await CLIENT.read("/nodes/n1", wait=True)).value == "seen"


async def watch_from_index():
    result = await CLIENT.write("/nodes/n1", "past")
    assert (await CLIENT.watch("/nodes/n1", index=result.modifiedIndex)).value == "past"


async def refresh():
    await CLIENT.write("/nodes/n1", "value", ttl=30)
    refreshed = await CLIENT.refresh("/nodes/n1", ttl=600)
    assert refreshed.ttl > 30 and refreshed.value == "value"


async def lock():
    held, other = Lock(CLIENT, "customer1"), Lock(CLIENT, "customer1")
    assert await held.acquire(lock_ttl=60)
    assert await held.is_acquired()
    assert not await other.acquire(blocking=False, lock_ttl=60)
    await held.release()
    assert await other.acquire(lock_ttl=60)
    await other.release()


async def delete():
    await CLIENT.delete("/nodes/n1")
    await CLIENT.delete("/nodes", recursive=True)


async def machines():
    assert len(await CLIENT.machines()) >= 1


async def leader():
    assert (await CLIENT.leader())["clientURLs"]


async def main():
    global CLIENT
    CLIENT = etcd.Client(host=HOST, port=PORT, loop=LOOP, allow_reconnect=False)


LOOP.run_until_complete(main())
run([waits_for(test) for test in (
    write_and_read, read_recursively, read_missing, compare_and_swap, update, watch, watch_from_index, refresh,
    lock, delete, machines, leader)])
