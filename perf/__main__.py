"""`python perf`: the contention benchmark, driver.py. A Ctrl-C may come as its modules load."""

import sys

try:
    from driver import main

    main()
except KeyboardInterrupt:
    print("\nstopped", file=sys.stderr)
    sys.exit(130)
