"""Who decides in the loop that makes pairs: judge, selector, weaver, captioner and pose editor, behind protocols."""
