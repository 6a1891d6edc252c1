"""Threads that write while something happens to the cloud."""

import contextlib


@contextlib.contextmanager
def writing(writers):
    """Has them run meanwhile. Each ends once its event `stopped` is set."""
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        for writer in writers:
            writer.stopped.set()
        for writer in writers:
            writer.join()
