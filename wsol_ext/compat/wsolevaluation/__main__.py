"""`python -m wsol_ext.compat.wsolevaluation`, in place of the public evaluator's `python evaluation.py`."""

from wsol_ext.compat.wsolevaluation.evaluation import main

main()
