"""Files that survive a crash and files that can be trusted: written whole, read bounded."""
