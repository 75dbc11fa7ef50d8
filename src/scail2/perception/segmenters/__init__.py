"""Where masks come from: given files, the embedded network, SAM3."""
