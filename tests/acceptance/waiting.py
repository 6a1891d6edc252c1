"""Waiting without guessing: look again until it is so, or a deadline has passed."""

import time


def until(what, look, seconds=60, every=0.1):
    """Calls `look` until it returns something true, which is returned. `what` names it in the error.

    Exceptions of `look` count as "not yet"; the last one is the cause of the error.
    """
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            if found := look():
                return found
            last = None
        except Exception as error:  # noqa: BLE001
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}") from last
        time.sleep(every)
