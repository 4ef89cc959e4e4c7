"""The calls of tooz that its driver `etcd` offers: a coordinator and its locks."""
import threading
import time

from calls import HOST, PORT, run
from tooz import coordination


def coordinator(name):
    made = coordination.get_coordinator(f"etcd://{HOST}:{PORT}/?lock_timeout=30", name)
    made.start()
    return made


FIRST, SECOND = coordinator(b"first"), coordinator(b"second")


def lock_and_release():
    lock = FIRST.get_lock(b"one")
    assert lock.acquire()
    assert lock.acquired
    assert lock.release()
    assert not lock.acquired


def lock_is_exclusive():
    lock, other = FIRST.get_lock(b"two"), SECOND.get_lock(b"two")
    assert lock.acquire()
    assert not other.acquire(blocking=False)
    assert lock.release()
    assert other.acquire(blocking=False)
    assert other.release()


def waiting_gets_the_lock():
    lock, other = FIRST.get_lock(b"three"), SECOND.get_lock(b"three")
    assert lock.acquire()
    threading.Timer(0.5, lock.release).start()
    began = time.monotonic()
    assert other.acquire(blocking=10)
    assert time.monotonic() - began >= 0.4
    assert other.release()


def waiting_gives_up():
    lock, other = FIRST.get_lock(b"four"), SECOND.get_lock(b"four")
    assert lock.acquire()
    assert not other.acquire(blocking=1)
    assert lock.release()


def heartbeat_keeps_the_lock():
    lock = FIRST.get_lock(b"five")
    assert lock.acquire()
    FIRST.heartbeat()
    assert lock.heartbeat()
    assert lock.release()


def break_a_lock():
    lock = FIRST.get_lock(b"six")
    assert lock.acquire()
    assert SECOND.get_lock(b"six").break_()


def lock_as_context():
    with FIRST.get_lock(b"seven") as held:
        assert held.acquired


run([lock_and_release, lock_is_exclusive, waiting_gets_the_lock, waiting_gives_up, heartbeat_keeps_the_lock,
     break_a_lock, lock_as_context])
