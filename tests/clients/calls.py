"""What the scripts in Python share: each call of a client is a function whose name is the test's."""
import os
import signal

HOST = os.environ["HOST"]
PORT = int(os.environ["PORT"])


def too_long(*_):
    raise TimeoutError("not done after 20 s")


def run(tests, *given):
    """Calls each function; one that raises nothing has passed."""
    signal.signal(signal.SIGALRM, too_long)
    for test in tests:
        name = test.__name__.replace("_", " ")
        signal.alarm(20)
        try:
            test(*given)
            print(f"pass {name}", flush=True)
        except Exception as error:
            text = str(error).replace("\n", " ")[:300]
            print(f"fail {name}: {type(error).__name__} {text}", flush=True)
        finally:
            signal.alarm(0)


def raises(kind, call, *given, **named):
    """Asserts that a call raises an exception of this kind."""
    try:
        seen = call(*given, **named)
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}: {seen}")
