"""``python -m deepseek_lab VERB [flags] [SCRIPT.py [ARGUMENT ...]]``."""

from __future__ import annotations

import sys

from deepseek_lab.notebook.script import main

if __name__ == "__main__":
    sys.exit(main())
