"""The functions of salt's execution module etcd."""
import threading

from calls import HOST, PORT, run
from salt.modules import etcd_mod
from salt.utils import etcd_util

etcd_mod.__utils__ = {"etcd_util.get_conn": etcd_util.get_conn}
etcd_mod.__opts__ = {"etcd.host": HOST, "etcd.port": PORT, "etcd.require_v2": True}


def set_and_get():
    assert etcd_mod.set_("/salt/a", "one") == "one"
    assert etcd_mod.get_("/salt/a") == "one"


def get_missing():
    assert etcd_mod.get_("/salt/none") is None


def get_recursively():
    assert etcd_mod.get_("/salt", recurse=True) == {"a": "one"}


def set_with_ttl():
    assert etcd_mod.set_("/salt/t", "short", ttl=100) == "short"


def set_directory():
    assert etcd_mod.set_("/salt/dir", "", directory=True)


def update():
    assert etcd_mod.update({"b": "two", "c": {"d": "three"}}, "/salt/u")
    assert etcd_mod.tree("/salt/u") == {"b": "two", "c": {"d": "three"}}


def list_directory():
    assert etcd_mod.ls_("/salt/u") == {"/salt/u": {"/salt/u/b": "two", "/salt/u/c/": {}}}


def watch():
    threading.Timer(0.5, etcd_mod.set_, ("/salt/a", "seen")).start()
    seen = etcd_mod.watch("/salt/a", timeout=10)
    assert seen["value"] == "seen" and seen["changed"], seen


def remove():
    assert etcd_mod.rm_("/salt/a") is True
    assert etcd_mod.rm_("/salt", recurse=True) is True


run([set_and_get, get_missing, get_recursively, set_with_ttl, set_directory, update, list_directory, watch, remove])
