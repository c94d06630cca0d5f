"""Entry of `berth-oci`: `python -I -S .../berth/cli/oci/__main__.py`. Nothing is imported before the copy is sealed."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rsplit("/", 4)[0])
    import os

    from berth.runtime import sealed

    if not sealed.VERBS.isdisjoint(sys.argv[1:]) and not sealed.is_sealed():
        from berth.linux import grace

        grace.begin()  # while the interpreter starts again and imports the rest
        sealed.ensure()
    from berth.cli.oci.main import main

    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    os._exit(code)  # taking the interpreter down in good order costs milliseconds
