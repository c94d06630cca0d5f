"""Entry of the command line: `python -I -S .../berth/cli/__main__.py`, without site and its 10 ms."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rsplit("/", 3)[0])
    from berth.cli.main import main

    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.exit(code)
