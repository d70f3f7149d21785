"""``python -m jobslib`` is ``runjob``."""

import sys

from jobslib.main import main

if __name__ == '__main__':
    sys.exit(main())
