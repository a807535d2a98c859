"""`python -m ebapose` is `ebapose`."""

import sys

from ebapose.cli import main

sys.exit(main())
