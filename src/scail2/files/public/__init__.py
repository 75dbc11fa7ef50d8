"""The public files one may have: which, for which machine, where they are kept, and how they get there."""
