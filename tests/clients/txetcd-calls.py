"""The calls of txetcd, a client of the v1 interface."""
import random

from calls import HOST, PORT
from treq.client import HTTPClient
from twisted.internet import defer, reactor, task
from twisted.web.client import Agent

# Removed from treq, and from Python 3.11: a sample of a set.
HTTPClient.with_config = classmethod(lambda cls: cls(Agent(reactor)))
sample = random.sample
random.sample = lambda population, count: sample(list(population), count)

import txetcd.client  # noqa: E402

CLIENT = txetcd.client.EtcdClient(seeds=[(HOST, PORT)])


@defer.inlineCallbacks
def set_and_get():
    done = yield CLIENT.set("v1/a", "one")
    assert (done.action, done.new_key) == ("set", True), vars(done)
    found = yield CLIENT.get("v1/a")
    assert found.value == "one", vars(found)


@defer.inlineCallbacks
def get_missing():
    try:
        yield CLIENT.get("v1/none")
    except txetcd.client.EtcdError as error:
        assert error.code == 100
    else:
        raise AssertionError("found")


@defer.inlineCallbacks
def list_directory():
    found = yield CLIENT.get("v1")
    assert [node.key for node in found] == ["/v1/a"], found


@defer.inlineCallbacks
def test_and_set():
    done = yield CLIENT.set("v1/a", "two", prev_value="one")
    assert (done.action, done.prev_value) == ("testAndSet", "one"), vars(done)


@defer.inlineCallbacks
def set_with_ttl():
    done = yield CLIENT.set("v1/t", "short", ttl=100)
    assert done.expiration is not None


@defer.inlineCallbacks
def watch():
    waiting = CLIENT.watch("v1/a")
    yield task.deferLater(reactor, 0.3, lambda: None)
    yield CLIENT.set("v1/a", "seen")
    event = yield waiting
    assert event.value == "seen", vars(event)


@defer.inlineCallbacks
def watch_from_index():
    done = yield CLIENT.set("v1/a", "past")
    event = yield CLIENT.watch("v1/a", index=done.index)
    assert event.value == "past", vars(event)


@defer.inlineCallbacks
def delete():
    done = yield CLIENT.delete("v1/a")
    assert done.action == "delete", vars(done)


@defer.inlineCallbacks
def main(_):
    tests = [set_and_get, get_missing, list_directory, test_and_set, set_with_ttl, watch, watch_from_index, delete]
    for test in tests:
        name = test.__name__.replace("_", " ")
        try:
            waiting = test()
            waiting.addTimeout(15, reactor)
            yield waiting
            print(f"pass {name}", flush=True)
        except Exception as error:
            print(f"fail {name}: {type(error).__name__} {str(error)[:300]!r}", flush=True)


task.react(main)
