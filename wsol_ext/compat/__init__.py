"""Names of other programs over the operators of this one, for code that was written for theirs."""
