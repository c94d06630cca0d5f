"""Entry of the command line: `python -I -S .../berth/cli/__main__.py`, without site and its 10 ms."""

import gc
import sys

if __name__ == "__main__":
    gc.set_threshold(20_000, 10, 10)  # what imports make stays: looking at it again and again takes a thirtieth of a short command
    sys.path.insert(0, __file__.rsplit("/", 3)[0])
    from berth.cli.main import main

    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    # Taking the interpreter down in good order costs milliseconds and changes nothing anybody sees.
    import os

    os._exit(code)
