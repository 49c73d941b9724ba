"""A tool for a process that only uses the library: `python3 -I .../eventd/__main__.py TOOL`."""

import os
import sys

root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
if root not in sys.path:
    sys.path.append(root)
from vzpy.cli import main  # noqa: E402

sys.exit(main(sys.argv[1], sys.argv[2:]))
