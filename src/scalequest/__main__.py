"""`python -m scalequest` is `scalequest`; `accelerate launch -m scalequest sft ...` starts one per GPU."""

import sys

from scalequest.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
