"""Entry of `berth-oci`: `python -I -S .../berth/cli/oci/__main__.py`. Nothing is imported before the copy is sealed."""

import sys

if __name__ == "__main__":
    import gc

    gc.disable()  # a process of some milliseconds leaves its cycles to the kernel
    sys.path.insert(0, __file__.rsplit("/", 4)[0])
    import os

    from berth.runtime import sealed

    if not sealed.VERBS.isdisjoint(sys.argv[1:]):
        sealed.ensure()  # now, while hardly anything is imported: it may start the interpreter again
    from berth.cli.oci.main import main

    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    os._exit(code)  # taking the interpreter down in good order costs milliseconds
