"""Runs the integration tests of python-etcd against a server that runs already.

Arguments: the folder of the unpacked package, its name for `import` (that of a package made from
python-etcd works too), and the names of its test modules. The tests start servers on ports
6001 and 8001 themselves: here they are given the server under test, and what they import for their own
servers (nose, OpenSSL) is left out. Tests that stop servers are left out too.
"""
import importlib
import os
import pathlib
import shutil
import signal
import sys
import types
import unittest

package, name, modules = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
host, port, work = os.environ["HOST"], os.environ["PORT"], pathlib.Path(os.environ["WORK"])

copy = work / "src"
shutil.copytree(package / "src", copy)
for path in (copy / name / "tests/integration").glob("*.py"):
    path.write_text(path.read_text().replace("6001", port).replace("8001", os.environ["PEER_PORT"]))
(copy / name / "tests/__init__.py").write_text("")
sys.path[:0] = [str(copy), str(package / "site")]

nose = types.ModuleType("nose.tools")
nose.nottest = lambda test: None
crypto = types.ModuleType("OpenSSL.crypto")
sys.modules.update({
    "nose": types.ModuleType("nose"),
    "nose.tools": nose,
    "OpenSSL": types.ModuleType("OpenSSL"),
    "OpenSSL.crypto": crypto,
})
sys.modules["OpenSSL"].crypto = crypto

etcd = importlib.import_module(name)
helpers = importlib.import_module(f"{name}.tests.integration.helpers")
test_simple = importlib.import_module(f"{name}.tests.integration.test_simple")


class NoServers:
    """In the place of the helper that starts servers."""

    def __init__(self, *args, **named):
        pass

    def run(self, *args, **named):
        pass

    def stop(self):
        pass


helpers.EtcdProcessHelper = NoServers
test_simple.EtcdIntegrationTest._get_exe = classmethod(lambda cls: "etcd")


class Lines(unittest.TestResult):
    """One line a test."""

    def line(self, test, what):
        print(what.format(".".join(test.id().split(".")[-2:])), flush=True)

    def addSuccess(self, test):
        self.line(test, "pass {}")

    def failed(self, test, error):
        text = str(error[1]).replace("{", "{{").replace("}", "}}").replace("\n", " ")
        self.line(test, "fail {}: " + error[0].__name__ + " " + text[:300])

    addError = addFailure = failed


def too_long(*_):
    raise TimeoutError("not done after 60 s")


def left_out(test):
    """Tests that stop servers, and those that make certificates for servers of their own."""
    names = [base.__name__ for base in type(test).__mro__]
    words = ("ClusterFunctions", "Encrypted", "Authenticated")
    return any(word in name for word in words for name in names)


def clear():
    client = etcd.Client(host=host, port=int(port))
    for node in client.read("/").children:
        if node.key and node.key != "/":
            client.delete(node.key, recursive=True, dir=node.dir)


def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


clear()
signal.signal(signal.SIGALRM, too_long)
loader = unittest.TestLoader()
for part in modules:
    module = importlib.import_module(f"{name}.tests.integration.{part}")
    for test in each(loader.loadTestsFromModule(module)):
        if left_out(test) or not test.id().startswith(module.__name__):
            continue
        type(test).setUpClass()
        signal.alarm(60)
        test.run(Lines())
        signal.alarm(0)
