"""From words on a command line to checked parts: what conf/ holds, how it composes, what is refused, how it is built.
Import its modules, not this package: the command line starts before torch is imported."""
