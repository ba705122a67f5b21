"""An application that ends the process while it is imported, as if it had been a script."""

import sys

sys.exit(0)
