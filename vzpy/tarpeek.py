"""The program that reads a few small files out of an archive of unknown origin.

    python3 -IS tarpeek.py MOST NAME... < TAR      each as: name, blank, size, newline, bytes

They stand at its front in what we write; an older vzdump has them at the end, so all is read. As
untar.py it is a process of its own, with little memory, and imports nothing of this package."""

from __future__ import annotations

import os
import resource
import sys
import tarfile

CHUNK = 1 << 20
MEMORY = 512 << 20


def main(most: int, wanted: set[str]) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    front = True
    try:
        stream = os.fdopen(0, "rb", buffering=0)
        tar = tarfile.open(
            fileobj=stream, mode="r|", bufsize=CHUNK, encoding="utf-8", errors="surrogateescape"
        )
        while wanted and (member := tar.next()) is not None:
            name = member.name.strip("/").removeprefix("./")
            if name in wanted and member.isreg() and member.size <= most:
                file = tar.extractfile(member)
                assert file
                data = file.read()
                os.write(1, b"%s %d\n%s" % (os.fsencode(name), len(data), data))
                wanted.discard(name)
                front = False
            elif not front and not member.isdir():
                break  # they stand together
    except Exception:  # tarfile raises whatever a bad header leads to
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), set(sys.argv[2:])))
