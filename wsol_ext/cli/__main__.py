"""`python -m wsol_ext.cli`, which is what `torchrun` wants."""

import sys

from wsol_ext.cli.main import main

sys.exit(main())
