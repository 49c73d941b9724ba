import sys

from .vm import main

sys.exit(main(sys.argv[1:]))
