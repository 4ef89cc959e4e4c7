"""The calls of k3etcd's README and of the synopsis in its package."""
import k3etcd
from calls import HOST, PORT, raises, run

CLIENT = k3etcd.Client(host=HOST, port=PORT)


def set_and_get():
    CLIENT.set("test_key", "test_val")
    found = CLIENT.get("test_key")
    assert (found.key, found.value, found.dir) == ("/test_key", "test_val", False)


def get_missing():
    raises(k3etcd.EtcdKeyError, CLIENT.get, "none")


def write_with_ttl():
    assert CLIENT.write("short", "x", ttl=100).ttl > 0


def append():
    assert CLIENT.write("queue", "job", append=True).key.startswith("/queue/")


def test_and_set():
    assert CLIENT.test_and_set("test_key", "next", prevValue="test_val").value == "next"
    raises(k3etcd.EcodeTestFailed, CLIENT.test_and_set, "test_key", "other", prevValue="test_val")


def update():
    found = CLIENT.get("test_key")
    found.value = "updated"
    assert CLIENT.update(found).value == "updated"


def refresh():
    assert CLIENT.refresh("short", ttl=1000).ttl > 100


def contains():
    assert "test_key" in CLIENT and "none" not in CLIENT


def directories():
    CLIENT.mkdir("dir")
    CLIENT.set("dir/a", "1")
    assert [node.key for node in CLIENT.lsdir("dir").leaves] == ["/dir/a"]
    CLIENT.rdeldir("dir")


def watch():
    index = CLIENT.set("test_key", "past").modifiedIndex
    assert CLIENT.watch("test_key", waitindex=index).value == "past"


def test_and_delete():
    assert CLIENT.test_and_delete("test_key", prevValue="past").action == "compareAndDelete"


def machines():
    assert f"http://{HOST}" in CLIENT.machines[0]


def members():
    assert len(CLIENT.names) == len(CLIENT.ids) == len(CLIENT.clienturls) == len(CLIENT.peerurls)


def leader():
    assert CLIENT.leader["clientURLs"]


def version():
    assert CLIENT.version["etcdserver"]


def statistics():
    assert CLIENT.st_self["name"] and "watchers" in CLIENT.st_store


run([set_and_get, get_missing, write_with_ttl, append, test_and_set, update, refresh, contains, directories, watch,
     test_and_delete, machines, members, leader, version, statistics])
